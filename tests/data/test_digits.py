"""This file tests the embedded digits."""

from __future__ import annotations

import string

import pytest
import torch

from dwindle.data.digits import load_digits_splits


@pytest.fixture(scope="module")
def splits():
    return load_digits_splits()


def test_sizes_shapes_and_types(splits):
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [1197, 300, 300]
    inputs, targets = splits.train.tensors
    assert inputs.shape[1:] == (1, 8, 8)
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert splits.class_names == tuple(string.digits)
    assert abs(float(inputs.mean())) < 0.05
    assert abs(float(inputs.std()) - 1) < 0.05


def test_every_split_holds_every_class_at_its_share(splits):
    counts = [part.tensors[1].bincount() for part in (splits.train, splits.validation, splits.test)]
    shares = sum(counts) / 1797
    for count in counts:
        assert float((count - shares * count.sum()).abs().max()) <= 2


def test_splits_share_no_image_beyond_those_that_the_source_repeats(splits):
    def images(*parts):
        return {tuple(image.flatten().tolist()) for part in parts for image in part.tensors[0]}

    everything = images(splits.train, splits.validation, splits.test)
    assert len(everything) == sum(len(images(part)) for part in (splits.train, splits.validation, splits.test))


def test_every_call_gives_the_same(splits):
    again = load_digits_splits()
    assert torch.equal(again.test.tensors[0], splits.test.tensors[0])
    assert again.test.tensors[1][:10].tolist() == splits.test.tensors[1][:10].tolist()
