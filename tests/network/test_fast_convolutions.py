"""Tests of convolutions that are computed in another way than oneDNN's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dwindle.network.fast_convolutions import fast_convolutions


def made(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def outcome(is_product: bool, **settings: object) -> tuple[Tensor, ...]:
    """Return the answer of one convolution, and the gradients of its input, weight and bias."""
    inputs, weight, bias = made(3, 192, 3, 2, seed=0), made(5, 192, 3, 2, seed=1), made(5, seed=2)
    values = [tensor.requires_grad_() for tensor in (inputs, weight, bias)]
    with torch.autocast("cpu", torch.bfloat16):
        if is_product:
            with fast_convolutions():
                answer = functional.conv2d(*values, **settings)  # type: ignore[arg-type]
        else:
            answer = functional.conv2d(*values, **settings)  # type: ignore[arg-type]
    answer.float().square().sum().backward()
    return answer.detach(), *(value.grad for value in values if value.grad is not None)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Return the shapes of the inputs of all products of matrices."""
    shapes: list[torch.Size] = []
    original = functional.linear

    def spied(inputs: Tensor, *others: Tensor) -> Tensor:
        shapes.append(inputs.shape)
        return original(inputs, *others)

    monkeypatch.setattr(functional, "linear", spied)
    return shapes


@pytest.mark.parametrize(
    "settings",
    [{}, {"padding": 1}, {"padding": (1, 0)}, {"stride": 2, "padding": (1, 1)}, {"stride": (1, 2), "padding": [1, 1]}],
)
def test_the_product_is_the_convolution_but_for_rounding(
    settings: dict[str, object], products: list[torch.Size]
) -> None:
    expected = outcome(False, **settings)
    assert products == []

    found = outcome(True, **settings)

    assert len(products) == 1
    assert len(found) == len(expected) == 4
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert float((ours - theirs).norm() / theirs.norm()) < 0.01


@pytest.mark.parametrize(
    ("shape", "weight", "settings"),
    [
        ((2, 192, 4, 4), (4, 192, 3, 3), {"padding": 1}),  # 16 positions are too many for 192 channels
        ((2, 64, 1, 1), (4, 64, 3, 3), {"padding": 1}),  # few channels
        ((2, 192, 2, 2), (4, 192, 1, 1), {}),  # a product already
        ((2, 384, 2, 2), (4, 192, 3, 3), {"padding": 1, "groups": 2}),
        ((2, 192, 3, 3), (4, 192, 2, 2), {"dilation": 2}),
        ((2, 192, 2, 2), (4, 192, 3, 3), {"padding": "same"}),
        ((2, 8, 6, 6), (8, 1, 3, 3), {"padding": 1, "groups": 8}),  # depthwise without steps
        ((2, 8, 32, 1), (8, 1, 9, 1), {"padding": (4, 0), "groups": 8}),  # no axis is smaller than its kernel
        ((2, 8, 6, 6), (16, 4, 3, 3), {"stride": 2, "groups": 2}),
        ((2, 1, 6, 6), (1, 1, 3, 3), {"stride": 2}),
    ],
)
def test_other_convolutions_are_untouched(
    shape: tuple[int, ...],
    weight: tuple[int, ...],
    settings: dict[str, object],
    products: list[torch.Size],
) -> None:
    values = made(*shape, seed=0), made(*weight, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        expected = functional.conv2d(*values, **settings)  # type: ignore[arg-type]
        with fast_convolutions():
            found = functional.conv2d(*values, **settings)  # type: ignore[arg-type]
    assert torch.equal(found, expected)
    assert products == []


@pytest.mark.parametrize(
    ("conv2d", "shape", "settings"),
    [
        (functional.conv2d, (3, 8, 9, 7), {"stride": 2, "padding": 1}),
        (functional.conv2d, (3, 8, 2, 5), {"padding": "same"}),
        (functional.conv2d, (3, 8, 6, 6), {"stride": (1, 2)}),
        (torch.ops.aten.conv2d.default, (3, 8, 9, 7), {"stride": [2, 2], "padding": [1, 1]}),
        (torch.ops.aten.conv2d.default, (3, 8, 2, 2), {"padding": [1, 1]}),
    ],
)
def test_depthwise_steps_are_float32_rounded(
    conv2d: Callable[..., Tensor], shape: tuple[int, ...], settings: dict[str, Any]
) -> None:
    values = [made(*shape, seed=0), made(8, 1, 3, 3, seed=1), made(8, seed=2)]
    ours, theirs = ([value.clone().requires_grad_() for value in values] for _ in range(2))
    expected = conv2d(*theirs, **settings, groups=8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16), fast_convolutions():
        found = conv2d(*ours, **settings, groups=8)
    assert torch.equal(found, expected)
    for answer in (found, expected):
        answer.float().square().sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_graphs_take_the_faster_way_too(products: list[torch.Size]) -> None:
    values = made(2, 192, 2, 2, seed=0), made(4, 192, 3, 3, seed=1)
    with torch.autocast("cpu", torch.bfloat16), fast_convolutions():
        torch.ops.aten.conv2d.default(*values, None, [1, 1], [1, 1])
    assert len(products) == 1


def test_without_autocast_nothing_changes(products: list[torch.Size]) -> None:
    values = made(2, 192, 2, 2, seed=0), made(4, 192, 2, 2, seed=1)
    with fast_convolutions():
        found = functional.conv2d(*values)
    assert torch.equal(found, functional.conv2d(*values))
    assert products == []


def test_an_input_that_does_not_fit_gets_the_error_of_torch() -> None:
    values = made(2, 191, 2, 2, seed=0), made(4, 192, 2, 2, seed=1)
    with (
        torch.autocast("cpu", torch.bfloat16),
        fast_convolutions(),
        pytest.raises(RuntimeError, match="to have 192 channels"),
    ):
        functional.conv2d(*values)
