"""This file computes convolutions of small maps in bfloat16 on a CPU as one product of matrices, for training.

oneDNN's backward pass of a convolution with many channels on a map of a few positions is several times slower than
that product: 86 ms against 17 ms for 512 to 512 channels on 2 by 2 positions, batch 64, one core with AMX. These are
the last layers of ResNets and VGGs on small images. `benchmarks/small_maps.py` has the ratio for a whole step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

MIN_CHANNELS: Final = 192
MIN_CHANNELS_PER_POSITION: Final = 20
"""With fewer channels, or on larger maps, the copies of the input cost more than the product saves (measured)."""


def small_maps_as_products() -> AbstractContextManager[Any]:
    """Return a context in which `conv2d` under bfloat16 autocast on a CPU takes the faster way.

    Values differ from those of oneDNN by rounding to bfloat16, which both do; all other calls are untouched.
    """
    return _SmallMaps()


class _SmallMaps(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(  # ruff: ignore[too-many-arguments] (torch's own)
    input: Tensor,  # ruff: ignore[builtin-argument-shadowing] (torch's own)
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if groups == 1 and not isinstance(padding, str) and _pair(dilation) == (1, 1) and _is_mixed(input, weight):
        strides, paddings = _pair(stride), _pair(padding)
        size = _output_size(input, weight, strides, paddings)
        if _is_small(size, weight):
            return _product(input, weight, bias, strides, paddings, size)
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _is_mixed(input: Tensor, weight: Tensor) -> bool:  # ruff: ignore[builtin-argument-shadowing]
    is_plain = input.device.type == "cpu" and input.ndim == 4 and input.shape[1] == weight.shape[1]
    is_on = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return is_plain and is_on and input.is_floating_point() and input.dtype != torch.float64


def _output_size(
    input: Tensor,  # ruff: ignore[builtin-argument-shadowing]
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> tuple[int, int]:
    height, width = ((input.shape[2 + i] + 2 * padding[i] - weight.shape[2 + i]) // stride[i] + 1 for i in (0, 1))
    return height, width


def _is_small(size: tuple[int, int], weight: Tensor) -> bool:
    n_positions, channels = size[0] * size[1], weight.shape[1]
    is_wide = channels >= MIN_CHANNELS and channels >= MIN_CHANNELS_PER_POSITION * n_positions
    return min(size) > 0 and is_wide and weight.shape[2:].numel() > 1


def _product(  # ruff: ignore[too-many-arguments] (those of a convolution)
    input: Tensor,  # ruff: ignore[builtin-argument-shadowing]
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    """Return (n, out, height, width): the input's patches times the weights, both as rows."""
    n_rows, n_columns = weight.shape[2:]
    last = input.to(torch.bfloat16).permute(0, 2, 3, 1)
    padded = functional.pad(last, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    taps = [
        padded[:, i : i + (size[0] - 1) * stride[0] + 1 : stride[0], j : j + (size[1] - 1) * stride[1] + 1 : stride[1]]
        for i in range(n_rows)
        for j in range(n_columns)
    ]
    patches = torch.cat(taps, -1).flatten(0, 2)
    rows = weight.permute(0, 2, 3, 1).flatten(1)  # a view of weights in channels_last
    found = functional.linear(patches, rows, bias)  # autocast rounds all to bfloat16
    return found.unflatten(0, (len(input), *size)).permute(0, 3, 1, 2)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, second = value if len(value) == 2 else (value[0], value[0])
    return first, second
