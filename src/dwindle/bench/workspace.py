"""This file says how much memory an engine's kernels take beside their tensors: the workspace of one operation.

Three ways of kernels are known. A reference kernel reads its input where it lies and takes nothing. A kernel that
multiplies matrices writes the input out first, one row for each place of the output (im2col), as TensorFlow Lite's
optimized kernels do on processors. CMSIS-NN, on microcontrollers, writes out two such rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dwindle.bench.multiplying import CONVOLUTIONS

_AVERAGES: Final = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
_ROWS: Final = 2
_CODE_BYTES: Final = 2
"""CMSIS-NN widens codes to 16 bits."""
_SUM_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """An operation and what decides about its workspace.

    Attributes:
        op: of ONNX.
        channels: of the input.
        places: of the output: its elements without batch and channels.
        window: of the kernel, along each spatial axis; empty for operations without one.
        steps: strides and dilations, all of them.
        groups: of the channels; as many as `channels` is a depthwise convolution.
        element_bytes: of the input as it is held.
        padded: elements of the input with zeros around it; 0 where there are none, or where they are those that
            TensorFlow calls SAME.
    """

    op: str
    channels: int
    places: int
    window: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    groups: int = 1
    element_bytes: float = 1.0
    padded: int = 0

    @property
    def row(self) -> int:
        """Values of the input that one place of one group's output is computed from."""
        return math.prod(self.window) * (self.channels // max(self.groups, 1))

    @property
    def is_pointwise(self) -> bool:
        """Whether the input may be read as it lies: a window of 1 that leaves nothing out."""
        return all(size == 1 for size in (*self.window, *self.steps))


Workspace = Callable[[Kernel], int]


def none(kernel: Kernel) -> int:
    """Return 0: reference kernels take nothing."""
    del kernel
    return 0


def im2col(kernel: Kernel) -> int:
    """Return the bytes of the input written out row by row, as TensorFlow Lite's optimized convolution does.

    >>> im2col(Kernel(op="Conv", channels=64, places=81, window=(3, 3), steps=(1, 1, 1, 1)))
    46656
    """
    if kernel.op not in CONVOLUTIONS or kernel.groups != 1 or kernel.is_pointwise:
        return 0
    return math.ceil(kernel.places * kernel.row * kernel.element_bytes)


def cmsis_nn(kernel: Kernel) -> int:
    """Return the bytes that CMSIS-NN asks for on a core with the DSP extension (Cortex-M4, M7, M33), for int8.

    Its `arm_convolve_wrapper_s8`, `arm_depthwise_conv_wrapper_s8` and `arm_avgpool_s8` have functions that say so:
    two rows of 16 bits, rounded up to four values; one row for a depthwise window other than 3 x 3; a sum of 32 bits
    for each channel that is averaged.

    >>> cmsis_nn(Kernel(op="Conv", channels=3, places=289, window=(7, 7), steps=(2, 2, 1, 1)))
    592
    """
    if kernel.element_bytes != 1:
        return 0  # it has integer kernels only
    if kernel.op in _AVERAGES:
        return _SUM_BYTES * kernel.channels
    if kernel.op not in CONVOLUTIONS or math.prod(kernel.window) == 1:
        return 0
    if kernel.groups == kernel.channels > 1:
        is_common = kernel.window == (3, 3)
        return 0 if is_common else _CODE_BYTES * math.prod(kernel.window) * kernel.channels
    return _ROWS * _CODE_BYTES * (-(-kernel.row // 4) * 4)
