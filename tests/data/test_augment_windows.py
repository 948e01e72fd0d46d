"""This file tests augmentation of windows: shapes stay, each window by its own draws, seeds repeat, settings hold."""

from __future__ import annotations

import pytest
import torch

from dwindle.data.augment_windows import Jitter, RandomOffset, RandomScale, RandomShift, shift_offset_and_jitter
from dwindle.errors import DataError, SettingError

EVERY = (RandomShift(), RandomShift(n_readings=3), RandomScale(), RandomOffset(), Jitter(), shift_offset_and_jitter)


def windows(n=8, n_channels=3, length=16):
    return torch.randn((n, n_channels, length), generator=torch.Generator().manual_seed(1))


def vary(augment, x, seed=0):
    return augment(x, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("augment", EVERY, ids=repr)
def test_shapes_stay_seeds_repeat_and_the_input_is_left_alone(augment):
    x = windows()
    kept = x.clone()
    first = vary(augment, x)
    assert first.shape == x.shape
    assert first.dtype == x.dtype
    assert torch.equal(first, vary(augment, x))
    assert not torch.equal(first, vary(augment, x, seed=1))
    assert torch.equal(x, kept)


@pytest.mark.parametrize("augment", EVERY, ids=repr)
def test_no_windows_are_no_windows(augment):
    assert vary(augment, windows(n=0)).shape == (0, 3, 16)


@pytest.mark.parametrize("augment", EVERY, ids=repr)
@pytest.mark.parametrize("wrong", [torch.zeros(4, 3), torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 8, dtype=torch.uint8)])
def test_what_is_no_window_is_refused(augment, wrong):
    with pytest.raises(DataError, match="takes floating-point windows"):
        vary(augment, wrong)


def test_a_shift_turns_a_window_round_and_all_channels_alike():
    x = torch.arange(16.0).expand(32, 3, 16)
    shifted = vary(RandomShift(n_readings=2), x)
    starts = shifted[:, 0, 0]
    assert set(starts.tolist()) == {0.0, 1.0, 2.0, 14.0, 15.0}
    for row in shifted:
        assert torch.equal(row[0], row[1])
        assert torch.equal(torch.roll(row[0], int(row[0, 0])), torch.arange(16.0))


def test_an_offset_is_one_number_for_a_channel_and_a_scale_one_factor():
    x = windows(n=500)
    offsets = vary(RandomOffset(std=0.2), x) - x
    assert torch.allclose(offsets, offsets[..., :1].expand_as(offsets), atol=1e-6)
    assert offsets[..., 0].std() == pytest.approx(0.2, rel=0.1)
    factors = vary(RandomScale(std=0.1), x) / x
    assert torch.allclose(factors, factors[..., :1].expand_as(factors), rtol=1e-3)
    assert factors[..., 0].std() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("augmentation", [RandomScale, RandomOffset, Jitter])
@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
def test_a_spread_that_is_none_is_refused(augmentation, std):
    with pytest.raises(SettingError, match="std must be positive and finite"):
        augmentation(std=std)


def test_a_shift_by_nothing_is_refused():
    with pytest.raises(SettingError, match="at least 1"):
        RandomShift(n_readings=0)
