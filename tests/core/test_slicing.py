"""Tests of dwindle.core.slicing: what stays decodes to what it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle.core.affine import quantize
from dwindle.core.encoding import Affine, Codebook, Dense, Encoding, Half, Scaled, Sparse, decode, describe
from dwindle.core.granularity import PerChannel, PerGroup, PerTensor
from dwindle.core.slicing import cut
from dwindle.errors import EncodingError

FORMS = (
    "dense",
    "half",
    "tensor",
    "channel0",
    "channel1",
    "codebook",
    "sparse",
    "sparse codebook",
    "scaled0",
    "scaled1",
)


def encode(form: str, values: torch.Tensor) -> Encoding:
    support = values > -0.3
    codebook = Codebook((values > 0).to(torch.uint8), Dense(torch.tensor([-0.5, 0.5])))
    forms: dict[str, Any] = {
        "dense": lambda: Dense(values),
        "half": lambda: Half(values.half()),
        "tensor": lambda: quantize(values, n_bits=8, granularity=PerTensor()),
        "channel0": lambda: quantize(values, n_bits=4, granularity=PerChannel(0), symmetric=False, signed=False),
        "channel1": lambda: quantize(values, n_bits=8, granularity=PerChannel(1)),
        "codebook": lambda: codebook,
        "sparse": lambda: Sparse(support, Dense(values * support)),
        "sparse codebook": lambda: Sparse(support, codebook),
        "scaled0": lambda: Scaled(Sparse(support, codebook), torch.rand(values.shape[0]) + 0.5, 0),
        "scaled1": lambda: Scaled(codebook, torch.rand(values.shape[1]) - 2.0, 1),
    }
    return forms[form]()


@given(
    st.sampled_from(FORMS),
    st.tuples(st.integers(2, 6), st.integers(2, 6), st.integers(1, 3)),
    st.integers(0, 2),
    st.data(),
)
def test_what_stays_decodes_to_what_it_was(form: str, shape: tuple[int, ...], axis: int, data: st.DataObject) -> None:
    encoding = encode(form, torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    gone = data.draw(st.sets(st.integers(0, shape[axis] - 1), max_size=shape[axis] - 1))
    kept = torch.tensor([i for i in range(shape[axis]) if i not in gone])
    after = cut(encoding, axis, sorted(gone))
    assert torch.equal(decode(after), decode(encoding).index_select(axis, kept))
    assert describe(after) == describe(encoding)


@given(st.sampled_from([0, 1]), st.booleans(), st.sets(st.integers(0, 7), max_size=7))
def test_groups_of_weights_are_rounded_anew(axis: int, is_sparse: bool, gone: set[int]) -> None:
    values = torch.randn(8, 8, generator=torch.Generator().manual_seed(2))
    support = values > -0.3
    inner = quantize(values, n_bits=8, granularity=PerGroup(3), support=support if is_sparse else None)
    encoding = Sparse(support, inner) if is_sparse else inner
    kept = torch.tensor([i for i in range(8) if i not in gone])
    after = cut(encoding, axis, sorted(gone))
    wanted = decode(encoding).index_select(axis, kept)
    codes = after.values if isinstance(after, Sparse) else after
    assert isinstance(codes, Affine)
    assert codes.granularity == PerGroup(3)
    assert codes.n_bits == 8
    assert float((decode(after) - wanted).abs().max()) <= float(inner.scale.max()) / 2 + 1e-6
    assert not bool(decode(after)[wanted == 0].any())


@pytest.mark.parametrize(
    ("axis", "indices", "message"),
    [(2, [0], "no axis 2"), (-1, [0], "no axis -1"), (0, [3], "no index 3"), (1, [0, 1], "all 2 indices")],
)
def test_what_does_not_exist_is_refused(axis: int, indices: list[int], message: str) -> None:
    with pytest.raises(EncodingError, match=message):
        cut(Dense(torch.ones(3, 2)), axis, indices)
