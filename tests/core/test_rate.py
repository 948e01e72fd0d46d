"""This file tests the size estimate against entropies known in closed form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle.core.affine import quantize
from dwindle.core.encoding import Codebook, Dense, Scaled, Sparse
from dwindle.core.rate import entropy_bits, estimate_bits
from dwindle.errors import EncodingError


def binary_entropy(share):
    return -share * math.log2(share) - (1 - share) * math.log2(1 - share)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64])
def test_two_symbols(dtype):
    symbols = torch.tensor([0] * 90 + [1] * 10).to(dtype)
    assert entropy_bits(symbols, 2) == pytest.approx(100 * binary_entropy(0.1))


@given(st.lists(st.integers(0, 5), max_size=50))
def test_entropy_lies_between_none_and_uniform(symbols):
    bits = entropy_bits(torch.tensor(symbols, dtype=torch.int64), 6)
    assert 0.0 <= bits <= len(symbols) * math.log2(6) + 1e-9


@pytest.mark.parametrize("symbols", [torch.empty(0, dtype=torch.int32), torch.zeros(9, dtype=torch.uint8)])
def test_nothing_and_one_symbol_cost_nothing(symbols):
    assert entropy_bits(symbols, 4) == 0.0


@pytest.mark.parametrize(("symbol", "shown"), [(-1, -1), (4, 4)])
def test_a_symbol_outside_the_alphabet_is_refused(symbol, shown):
    with pytest.raises(EncodingError, match=rf"\[0, 4\).*{shown}"):
        entropy_bits(torch.tensor([0, symbol]), 4)


def test_raw_streams_count_their_width():
    assert estimate_bits(Dense(torch.ones(3, dtype=torch.float64))) == 3 * 64
    assert estimate_bits(Dense(torch.ones(3, dtype=torch.float16))) == 3 * 16


def test_a_nested_encoding_is_the_sum_of_its_streams():
    support = torch.tensor([True, True, True, True, False, False, False, False])
    indices = torch.tensor([0, 1, 0, 1, 1, 1, 1, 1], dtype=torch.uint8)
    centroids = quantize(torch.tensor([-1.0, 1.0]), n_bits=8)
    sparse = Sparse(support, Codebook(indices, centroids))
    # support 8 bits, indices inside it 4 bits, two different centroid codes 2 bits, scale and zero point 32 each
    assert estimate_bits(sparse) == pytest.approx(8 + 4 + 2 + 64)
    assert estimate_bits(Scaled(sparse, torch.ones(8), 0)) == pytest.approx(8 + 4 + 2 + 64 + 8 * 32)
