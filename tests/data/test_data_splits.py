"""This file tests the splits: what is usable, batches, holding out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from dwindle.data.splits import Splits, batches, hold_out, require_usable
from dwindle.errors import DataError


def pairs(n: int = 4, *, label: int = 0) -> TensorDataset:
    return TensorDataset(torch.zeros(n, 2), torch.full((n,), label))


def test_one_class_is_usable():
    splits = Splits(name="x", train=pairs(), validation=pairs(1), test=pairs(), class_names=("only",))
    assert splits.n_classes == 1


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (pairs(0), "x data set is empty"),
        (pairs(label=2), r"x labels lie in \[2, 2\]; with 2 classes"),
        (pairs(label=-1), r"x labels lie in \[-1, -1\]"),
        (TensorDataset(torch.tensor([[0.0], [float("nan")]]), torch.zeros(2).long()), "1 of 2 x inputs hold NaN"),
        (TensorDataset(torch.zeros(2, 2)), "x data hold 1 tensors"),
    ],
)
def test_what_cannot_be_used_is_refused(dataset, words):
    with pytest.raises(DataError, match=words):
        require_usable(dataset, n_classes=2, what="x")


def test_every_split_is_checked():
    with pytest.raises(DataError, match="digits test data set is empty"):
        Splits(name="digits", train=pairs(), validation=pairs(), test=pairs(0), class_names=("a",))


@given(st.integers(1, 30), st.integers(1, 40))
def test_batches_hold_every_example_once_in_order(n, size):
    dataset = TensorDataset(torch.arange(n * 2).reshape(n, 2), torch.arange(n))
    parts = list(batches(dataset, size))
    assert torch.equal(torch.cat([x for x, _ in parts]), dataset.tensors[0])
    assert torch.equal(torch.cat([y for _, y in parts]), dataset.tensors[1])
    assert max(len(y) for _, y in parts) <= size


def test_an_empty_batch_is_refused():
    with pytest.raises(DataError, match="size 0"):
        list(batches(pairs(), 0))


@given(st.integers(2, 30), st.data())
def test_holding_out_loses_and_repeats_nothing(n, data):
    n_held_out = data.draw(st.integers(1, n - 1))
    kept, held_out = hold_out(torch.arange(n), torch.arange(n), n_held_out=n_held_out, seed=1)
    assert len(held_out) == n_held_out
    assert sorted(torch.cat([kept.tensors[0], held_out.tensors[0]]).tolist()) == list(range(n))
    again, _ = hold_out(torch.arange(n), torch.arange(n), n_held_out=n_held_out, seed=1)
    assert torch.equal(kept.tensors[0], again.tensors[0])


@pytest.mark.parametrize("n_held_out", [0, 5, 6, -1])
def test_a_side_without_examples_is_refused(n_held_out):
    with pytest.raises(DataError, match="cannot be held out"):
        hold_out(torch.arange(5), torch.arange(5), n_held_out=n_held_out)
