"""This file tests pairs of classes: their splits and labels, turned images, what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle.data.cifar10_pair import load_cifar10_pair, load_digit_pair, turn
from dwindle.errors import SettingError
from dwindle.studies.published import load_pair


def test_the_published_counts_and_balance(real):
    splits = real(lambda: load_cifar10_pair("cat", "dog"))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [8000, 2000, 2000]
    assert splits.class_names == ("cat", "dog")
    assert splits.test.tensors[1].float().mean() == 0.5
    both = torch.cat([splits.train.tensors[1], splits.validation.tensors[1]])
    assert both.float().mean() == 0.5


def test_digits_are_told_apart_by_zero_and_one():
    splits = load_digit_pair(3, 8)
    for part in (splits.train, splits.validation, splits.test):
        assert part.tensors[1].unique().tolist() == [0, 1]
    assert splits.class_names == ("3", "8")
    other = load_digit_pair(8, 3)
    torch.testing.assert_close(other.test.tensors[1], 1 - splits.test.tensors[1])


@given(st.integers(-8, 8), st.integers(1, 6))
def test_quarters_of_a_turn_move_pixels_and_add_up(quarters, side):
    images = torch.arange(2.0 * side * side).reshape(2, 1, side, side)
    turned = turn(images, 90.0 * quarters)
    assert turned.flatten().sort().values.equal(images.flatten().sort().values)
    assert turn(turned, -90.0 * quarters).equal(images)


def test_other_angles_agree_with_quarters_of_a_turn():
    images = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(turn(images, 90.0 - 1e-5), turn(images, 90.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(turn(images, -180.0 + 1e-5), turn(images, 180.0), atol=1e-3, rtol=0)
    assert bool(torch.isfinite(turn(images, 33.0)).all())


def test_nothing_is_lost_where_the_image_is_flat():
    images = torch.full((1, 1, 9, 9), 3.0)
    torch.testing.assert_close(turn(images, 41.0), images)


@pytest.mark.parametrize(
    ("first", "second", "words"), [("cat", "dgo", "nearest known one is 'dog'"), ("cat", "cat", "'cat' twice")]
)
def test_a_pair_needs_two_classes(first, second, words, tmp_path):
    with pytest.raises(SettingError, match=words):
        load_cifar10_pair(first, second, root=tmp_path)


@pytest.mark.parametrize("degrees", [float("nan"), float("inf")])
def test_an_angle_is_finite(degrees, tmp_path):
    with pytest.raises(SettingError, match="finite angle"):
        load_cifar10_pair("cat", "dog", root=tmp_path, degrees=degrees)


def test_digits_that_are_none_and_images_that_are_none():
    with pytest.raises(SettingError, match="two different digits"):
        load_digit_pair(3, 3)
    with pytest.raises(SettingError, match="take cifar10, or digits"):
        load_pair("cat", "ship", images="digits")
    with pytest.raises(SettingError, match="take cifar10, or digits"):
        load_pair("cat", "dog", images="mnist")
