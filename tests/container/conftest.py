"""This file builds contents that use every part of the format."""

from __future__ import annotations

import numpy as np
import pytest

from dwindle.container import Contents
from dwindle.container.records import AffineRecord, CodebookRecord, DenseRecord, HalfRecord, ScaledRecord, SparseRecord


def affine(shape, granularity, n_scales, *, n_bits=8, signed=True, seed=0):
    rng = np.random.default_rng(seed)
    low = -(1 << (n_bits - 1)) if signed else 0
    codes = rng.integers(low, low + (1 << n_bits), shape, dtype=np.int32)
    scale = rng.uniform(0.01, 0.1, n_scales).astype(np.float32)
    zero_point = rng.integers(low, low + (1 << n_bits), n_scales, dtype=np.int32)
    return AffineRecord(codes, scale, zero_point, granularity, n_bits, signed)


@pytest.fixture
def contents():
    rng = np.random.default_rng(7)
    shape = (6, 5, 2)
    support = rng.random(shape) < 0.3
    indices = rng.integers(0, 4, shape).astype(np.uint8)
    floats = DenseRecord(np.array([-1.5, -0.5, 0.25, 2.0], np.float32))
    shared = CodebookRecord(indices, floats)
    halves = rng.normal(size=shape).astype(np.float16)
    return Contents(
        records={
            "z.dense": DenseRecord(rng.normal(size=(3, 4)).astype(np.float32)),
            "scalar": DenseRecord(np.array(12, np.int64)),
            "empty": DenseRecord(np.zeros((0, 3), np.float32)),
            "channel": affine((6, 5), ("channel", 0), 6),
            "group": affine((3, 7), ("group", 3), 9, n_bits=4, signed=False),
            "wide": affine((40,), ("tensor",), 1, n_bits=16),
            "shared": shared,
            "int8.centroids": CodebookRecord(indices, affine((4,), ("tensor",), 1)),
            "many.centroids": CodebookRecord(
                rng.integers(0, 300, (2, 4)).astype(np.int32), DenseRecord(rng.normal(size=300).astype(np.float32))
            ),
            "sparse.dense": SparseRecord(support, DenseRecord(np.where(support, rng.normal(size=shape), 0))),
            "sparse.affine": SparseRecord(support, affine(shape, ("channel", 1), 5)),
            "sparse.shared": SparseRecord(support, shared),
            "scaled": ScaledRecord(SparseRecord(support, shared), np.linspace(-1, 1, 5, dtype=np.float32), 1),
            "half": HalfRecord(halves),
            "sparse.half": SparseRecord(support, HalfRecord(np.where(support, halves, np.float16(0)))),
            "half.centroids": CodebookRecord(indices, HalfRecord(np.array([1, 2, 3, 6e-8], np.float16))),
            "scaled.half": ScaledRecord(HalfRecord(halves), np.ones(6, np.float32), 0),
            "scaled.affine": ScaledRecord(affine((6, 5), ("tensor",), 1), np.ones(6, np.float32), 0),
        },
        aliases={"tied": "z.dense"},
        graph=b"",
        metadata={"classes": ["a", "\u00e9"], "n_dense_weights": 400, "nested": {"x": [1.5, None, True]}},
    )
