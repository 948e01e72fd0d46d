"""This file tests reading an exported file back: what is found in every layout, and what is missed."""

from __future__ import annotations

import numpy as np
import pytest

from dwindle.container.integer import IntegerForm
from dwindle.exporters.survival import lost_integers

RANDOM = np.random.default_rng(0)


def form(*shape: int, axis: int | None = 0) -> IntegerForm:
    codes = RANDOM.integers(-127, 128, shape).astype(np.int8)
    scale = np.asarray(RANDOM.uniform(0.1, 1, () if axis is None else shape[axis]), np.float32)
    return IntegerForm(codes, scale, np.zeros(scale.shape, np.int8), axis)


def file_with(codes: np.ndarray, scale: np.ndarray, *activations: float) -> bytes:
    scales = b"".join(np.float32(value).tobytes() for value in activations)
    return b"head" + np.ascontiguousarray(codes).tobytes() + b"between" + scale.tobytes() + b"more" + scales + b"end"


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((4, 6), lambda codes: codes),
        ((4, 3, 2, 2), lambda codes: codes),
        ((4, 3, 2, 2), lambda codes: codes.transpose(0, 2, 3, 1)),
        ((4, 3, 5), lambda codes: codes.transpose(0, 2, 1)),
        ((4, 1, 3, 3), lambda codes: codes.transpose(1, 2, 3, 0)),
    ],
)
def test_integers_are_found_in_the_layouts_of_engines(shape, layout):
    ours = form(*shape)
    data = file_with(layout(ours.codes), ours.scale, 0.25, 1 / 3)
    assert lost_integers(data, {"w": ours}, (0.25, 1 / 3)) == []


def test_one_scale_for_all_is_found_too():
    ours = form(4, 6, axis=None)
    assert lost_integers(file_with(ours.codes, ours.scale), {"w": ours}, ()) == []


def test_each_loss_is_named():
    ours = form(4, 3, 2, 2)
    whole = file_with(ours.codes, ours.scale, 0.25)
    changed = ours.codes.copy()
    changed.flat[5] += 1
    assert lost_integers(file_with(changed, ours.scale, 0.25), {"w": ours}, (0.25,)) == ["the codes of 'w'"]
    swapped = ours.codes.transpose(1, 0, 2, 3)
    assert lost_integers(file_with(swapped, ours.scale, 0.25), {"w": ours}, (0.25,)) == ["the codes of 'w'"]
    other = np.nextafter(ours.scale, np.float32(2))
    assert lost_integers(file_with(ours.codes, other, 0.25), {"w": ours}, (0.25,)) == ["the scales of 'w'"]
    assert lost_integers(whole, {"w": ours}, (0.25, 0.5, 0.5)) == ["an activation of scale 0.5"]
    assert lost_integers(whole[:20], {"w": ours}, ()) == ["the codes of 'w'"]
