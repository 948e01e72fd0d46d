"""This file computes convolutions for training in bfloat16 on a CPU in another way where oneDNN's is slow.

- Many channels on a map of a few positions, the last layers of ResNets and VGGs on small images: oneDNN's backward pass
  is several times slower than one product of matrices.
- Depthwise convolutions with a stride, or on a map smaller than their kernel: the backward pass in bfloat16 is several
  times slower than in float32 (six to forty times with kernels of 3 x 3 on a Xeon with AMX).

`benchmarks/convolutions.py` has the ratio for a whole step.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

MIN_CHANNELS: Final = 192
MIN_CHANNELS_PER_POSITION: Final = 20
"""With fewer channels, or on larger maps, copying the input costs more than the product saves (one Xeon with AMX)."""


_CONV2D: Final = frozenset({torch.conv2d, torch.ops.aten.conv2d.default})
"""What modules call, and what captured graphs call (but where padding is a word)."""


def fast_convolutions() -> AbstractContextManager[Any]:
    """Return a context in which `conv2d` under bfloat16 autocast on a CPU takes the faster way.

    Values differ from those of oneDNN by rounding to bfloat16, of the answer at least; all other calls are untouched.
    """
    return _FastConvolutions()


class _FastConvolutions(TorchFunctionMode):
    def __torch_function__(  # ruff: ignore[too-many-positional-arguments] (torch's own)
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func in _CONV2D and (call := _Convolution(*args, **given)).is_mixed():
            if call.is_faster_as_product():
                return call.product()
            if call.is_faster_in_float32():
                return call.in_float32()
        return func(*args, **given)


@dataclass
class _Convolution:
    """The arguments of `torch.conv2d`, under its names and in its order."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None = None
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1

    def is_mixed(self) -> bool:
        """Whether it is computed in bfloat16 on a CPU, because autocast is on."""
        is_on = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        is_rounded = {self.input.dtype, self.weight.dtype} <= {torch.float32, torch.bfloat16}
        return is_on and is_rounded and self.input.ndim == self.weight.ndim == 4 and self.input.device.type == "cpu"

    def is_faster_as_product(self) -> bool:
        """Whether many channels meet a small map."""
        is_plain = self.groups == 1 and not isinstance(self.padding, str) and _pair(self.dilation) == (1, 1)
        return is_plain and self.input.shape[1] == self.weight.shape[1] and self._is_small()

    def is_faster_in_float32(self) -> bool:
        """Whether each channel is convolved alone, in steps or on a map smaller than the kernel."""
        is_depthwise = 1 < self.groups == self.input.shape[1] and self.weight.shape[1] == 1
        is_smaller = any(map(operator.lt, self.input.shape[2:], self.weight.shape[2:]))
        return is_depthwise and (max(_pair(self.stride)) > 1 or is_smaller)

    def in_float32(self) -> Tensor:
        """Return (n, out, height, width) in bfloat16, computed in float32."""
        bias = None if self.bias is None else self.bias.float()
        with torch.autocast("cpu", enabled=False):
            given = (self.input.float(), self.weight.float(), bias)
            return torch.conv2d(*given, self.stride, self.padding, self.dilation, self.groups).to(torch.bfloat16)

    def product(self) -> Tensor:
        """Return (n, out, height, width): the input's patches times the weights, both as rows."""
        patches = torch.cat([*self._taps()], -1).flatten(0, 2)
        rows = self.weight.permute(0, 2, 3, 1).flatten(1)  # a view of weights in channels_last
        found = functional.linear(patches, rows, self.bias)  # autocast rounds all to bfloat16
        return found.unflatten(0, (len(self.input), *self._size())).permute(0, 3, 1, 2)

    def _taps(self) -> Iterator[Tensor]:
        """Yield (n, height, width, channels) for each position of the kernel: what it meets."""
        (height, width), (down, right), (above, beside) = self._size(), _pair(self.stride), _pair(self.padding)
        last = self.input.to(torch.bfloat16).permute(0, 2, 3, 1)
        padded = functional.pad(last, (0, 0, beside, beside, above, above))
        for row in range(self.weight.shape[2]):
            for column in range(self.weight.shape[3]):
                rows = slice(row, row + (height - 1) * down + 1, down)
                yield padded[:, rows, column : column + (width - 1) * right + 1 : right]

    def _is_small(self) -> bool:
        size, channels = self._size(), self.weight.shape[1]
        is_wide = channels >= MIN_CHANNELS and channels >= MIN_CHANNELS_PER_POSITION * size[0] * size[1]
        return min(size) > 0 and is_wide and self.weight.shape[2:].numel() > 1

    def _size(self) -> tuple[int, int]:
        """Return the (height, width) of the answer."""
        shape = zip(self.input.shape[2:], self.weight.shape[2:], _pair(self.stride), _pair(self.padding), strict=True)
        height, width = ((length + 2 * pad - kernel) // stride + 1 for length, kernel, stride, pad in shape)
        return height, width


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, last = value[0], value[-1]
    return first, last
