"""This file tests which weights share a scale."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle.core.affine import quantize
from dwindle.core.granularity import PerChannel, PerGroup, PerTensor, expand, n_scales, row_shape
from dwindle.errors import SettingError

SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)


def spread(shape, granularity):
    """Return the number of the scale of each weight."""
    numbers = torch.arange(n_scales(shape, granularity))
    return expand(numbers, granularity, shape).expand(shape)


@given(SHAPES)
def test_a_tensor_has_one_scale(shape):
    assert n_scales(shape, PerTensor()) == 1
    assert (spread(shape, PerTensor()) == 0).all()


@given(SHAPES.filter(bool), st.data())
def test_a_channel_has_one_scale(shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    expected = torch.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))]).expand(shape)
    assert torch.equal(spread(shape, PerChannel(axis)), expected)


@given(SHAPES, st.integers(1, 8))
def test_groups_are_runs_inside_a_row(shape, size):
    n_rows, n_columns = row_shape(shape)
    numbers = spread(shape, PerGroup(size)).reshape(n_rows, n_columns)
    per_row = -(-n_columns // size)
    for row in range(n_rows):
        for column in range(n_columns):
            assert numbers[row, column] == row * per_row + column // size
    assert n_scales(shape, PerGroup(size)) == n_rows * per_row


def test_a_group_longer_than_a_row_costs_no_more_than_the_row():
    assert expand(torch.arange(4), PerGroup(1 << 60), (4, 3)).shape == (4, 3)
    assert quantize(torch.ones(4, 3), n_bits=4, granularity=PerGroup(1 << 60)).scale.shape == (4,)


def test_a_vector_is_one_row():
    assert row_shape((7,)) == (1, 7)
    assert row_shape(()) == (1, 1)
    assert row_shape((2, 3, 4)) == (2, 12)


@pytest.mark.parametrize("axis", [2, 5])
def test_an_axis_must_exist(axis):
    with pytest.raises(SettingError, match=rf"axis={axis}.*\[0, 2\)"):
        n_scales((2, 3), PerChannel(axis))


def test_axes_do_not_count_from_the_end():
    with pytest.raises(SettingError, match="axis=-1"):
        PerChannel(-1)


@pytest.mark.parametrize("size", [0, -4])
def test_a_group_holds_a_weight(size):
    with pytest.raises(SettingError, match=rf"size={size}"):
        PerGroup(size)
