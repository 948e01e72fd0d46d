from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dwindle.container.coders import Coded
from dwindle.container.values import DTYPES, PLANES, REPEATED, STORED, decode_values, encode_values
from dwindle.errors import ContainerError


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type(dtype):
    values = np.arange(-5, 200).astype(dtype)
    coded = encode_values(values)
    decoded = decode_values(coded, values.size, dtype)
    assert decoded.dtype == values.dtype
    assert decoded.tobytes() == values.tobytes()


@given(hnp.arrays(np.uint32, st.integers(0, 50)))
@settings(max_examples=40, deadline=None)
def test_every_bit_pattern_of_float32_survives(bits):
    values = bits.view(np.float32)
    assert decode_values(encode_values(values), values.size, "float32").tobytes() == values.tobytes()


def test_trained_floats_shrink_by_their_exponents():
    values = np.random.default_rng(0).normal(0, 0.02, 20_000).astype(np.float32)
    coded = encode_values(values)
    assert coded.coder == PLANES
    assert len(coded.payload) < 0.9 * values.nbytes
    assert np.array_equal(decode_values(coded, values.size, "float32"), values)


def test_repeated_numbers_are_stored_once():
    assert encode_values(np.zeros((512,), np.int32)) == Coded(REPEATED, bytes(4))
    assert encode_values(np.array(3, np.int64)) == Coded(REPEATED, b"\3" + bytes(7))
    assert encode_values(np.zeros((0, 3), np.float32)) == Coded(STORED, b"")


def test_golden_planes():
    coded = encode_values(np.array([1, 2, 4, 8] * 30, np.uint16))
    assert coded.payload.hex() == GOLDEN_PLANES
    assert decode_values(coded, 120, "uint16").tolist() == [1, 2, 4, 8] * 30


GOLDEN_PLANES = "022510dfbcf00000c0e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4243939010100"


def test_unknown_types_are_refused():
    with pytest.raises(ContainerError, match="complex64"):
        encode_values(np.zeros(3, np.complex64))


@pytest.mark.parametrize(
    ("coder", "payload", "n", "dtype", "words"),
    [
        (STORED, b"\0" * 7, 2, "float32", "do not fit"),
        (REPEATED, b"\0" * 8, 2, "float32", "do not fit"),
        (REPEATED, b"\0" * 4, 0, "float32", "do not fit"),
        (STORED, b"\0\2", 2, "bool", "neither 0 nor 1"),
        (PLANES, b"", 4, "float32", "cut off"),
        (PLANES, b"\1\1\7\1\1", 4, "int16", "cut off"),
        (PLANES, b"\1\1\7\1\1\7\0", 4, "int16", "follow the last"),
        (PLANES, b"\x09\1\7\1\1\7", 4, "int16", "unknown"),
        (0, b"", 0, "int16", "unknown"),
    ],
)
def test_broken_payloads(coder, payload, n, dtype, words):
    with pytest.raises(ContainerError, match=words):
        decode_values(Coded(coder, payload), n, dtype)
