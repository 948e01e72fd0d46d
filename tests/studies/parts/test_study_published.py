"""This file tests what the published protocols of Tian et al. and of Predic et al. do to data and training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dwindle.data.digits import load_digits_splits
from dwindle.studies import published
from dwindle.studies.published import (
    a_tenth_every_20_of_100,
    a_tenth_every_30_of_100,
    choose_on_the_test_split,
    choose_on_the_test_split_beside_copies,
    sgd,
)


def test_everything_but_the_test_split_trains_and_the_test_split_decides():
    splits = load_digits_splits()
    formed = choose_on_the_test_split(splits, 0)
    assert len(formed.train) == len(splits.train) + len(splits.validation)
    assert formed.validation is splits.test
    assert formed.test is splits.test


def test_images_stand_beside_one_varied_copy_of_each():
    splits = load_digits_splits(size=16)
    formed = choose_on_the_test_split_beside_copies(splits, 0)
    images, targets = formed.train.tensors
    n = len(splits.train) + len(splits.validation)
    assert len(images) == 2 * n
    assert torch.equal(targets[:n], targets[n:])
    assert not torch.equal(images[:n], images[n:])
    again = choose_on_the_test_split_beside_copies(splits, 0).train.tensors[0]
    assert torch.equal(images, again)
    assert not torch.equal(images, choose_on_the_test_split_beside_copies(splits, 1).train.tensors[0])


def test_weight_decay_is_on_every_parameter_and_momentum_is_plain():
    layer = nn.Linear(3, 2)
    groups = [{"params": [layer.weight]}, {"params": [layer.bias], "weight_decay": 0.0}]
    optimizer = sgd(groups, 0.01)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-4, 5e-4]
    assert [(group["momentum"], group["nesterov"], group["lr"]) for group in optimizer.param_groups] == [
        (0.9, False, 0.01)
    ] * 2


@pytest.mark.parametrize(("schedule", "n"), [(a_tenth_every_20_of_100, 20), (a_tenth_every_30_of_100, 30)])
def test_the_learning_rate_falls_at_the_epochs_of_table_2(schedule, n):
    for epoch in range(100):
        assert schedule(epoch / 100) == pytest.approx(0.1 ** (epoch // n))


def test_adam_of_predic_et_al_has_no_weight_decay():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = published.adam([{"params": [weight], "weight_decay": 0.5}], 0.001)
    assert (optimizer.defaults["lr"], optimizer.defaults["eps"]) == (0.001, 1e-7)
    assert all(group["weight_decay"] == 0.0 for group in optimizer.param_groups)


def test_flips_and_rotations_keep_shape_and_range():
    images = torch.rand(4, 3, 8, 8)
    varied = published.flip_and_rotate(images, torch.Generator().manual_seed(0))
    assert varied.shape == images.shape
    assert not torch.equal(varied, images)
    assert float(varied.min()) >= 0.0
    assert float(varied.max()) <= 1.0


@pytest.mark.parametrize(("asked", "passed"), [("none", None), (7, 7)])
def test_tiles_are_asked_for_at_their_size(monkeypatch, asked, passed):
    seen = {}
    monkeypatch.setattr(published, "load_nct_crc_he", lambda **settings: seen.update(settings))
    published.load_tiles(size=24, max_per_class=asked)
    assert seen["form"].size == 24
    assert seen["form"].max_bytes > 100_000 * 224 * 224 * 3 * 4
    assert seen["max_per_class"] == passed
