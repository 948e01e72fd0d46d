"""This file holds how engines plan their arena: what lives how long, what is computed in place, and what lies where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dwindle.bench.arena import Arena, by_objects, by_offset
from dwindle.bench.workspace import Workspace, cmsis_nn, im2col, none


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """How an engine plans.

    Attributes:
        lay: blocks and alignment -> arena.
        alignment: of every tensor, in bytes.
        workspace: what a kernel takes beside its tensors.
        keeps_inputs: inputs of the network stay until the end, so that it can run again.
        codes_in: an input that is only quantized arrives as codes, and is copied before it is used (into the engine's
            order of axes).
        pads_apart: zeros around an input are an operation of their own, unless they are those that TensorFlow calls
            SAME: as many on both sides as leave ceil(size / stride) places, an odd one behind.
        sums_in_place: a sum or product of two tensors takes the place of one of them, if nothing else reads it.
    """

    lay: Callable[..., Arena] = by_offset
    alignment: int = 16
    workspace: Workspace = none
    keeps_inputs: bool = False
    codes_in: bool = False
    pads_apart: bool = False
    sums_in_place: bool = False


MICROCONTROLLER: Final = Planner(workspace=cmsis_nn)
"""TensorFlow Lite for Microcontrollers with CMSIS-NN: greedy by size, an alignment of 16, inputs that may be
overwritten once they were read."""
LITERT: Final = Planner(
    alignment=64, workspace=im2col, keeps_inputs=True, codes_in=True, pads_apart=True, sums_in_place=True
)
"""LiteRT on a processor without delegates, with its optimized kernels."""
LITERT_REFERENCE: Final = Planner(alignment=64, keeps_inputs=True, codes_in=True, pads_apart=True, sums_in_place=True)
"""LiteRT with its reference kernels, which have no workspace."""
EXECUTORCH_CORTEX_M: Final = Planner(lay=by_objects, workspace=cmsis_nn)
"""ExecuTorch lowered to Cortex-M kernels (CMSIS-NN)."""
