"""This file names the places where a network computes something, and how the values there are quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dwindle.core.few_bits import LevelRange, Levels

INPUT: Final = "<input>"


@dataclass(frozen=True, slots=True, order=True)
class CallSite:
    """One value in the captured graph of a network.

    Attributes:
        module: path of the innermost module whose code computes it; `<input>` for an input of the network.
        call: how many operations that module's code has run before this one in graph order (an input: its position).
        output: which output of the operation.
    """

    module: str
    call: int
    output: int = 0

    def __str__(self) -> str:
        return f"{self.module}:{self.call}:{self.output}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationQuantizer:
    """Affine quantization of one activation: code = round(x / scale) + zero_point, kept in the range of `n_bits`.

    `clipped_fraction` is the fraction of calibration values outside the range.
    """

    scale: float
    zero_point: int
    n_bits: int = 8
    signed: bool = False
    clipped_fraction: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicQuantizer:
    """The layer whose result is at the call site reads its first input through unsigned codes, ranged at run time.

    Scale and zero point are those of ONNX DynamicQuantizeLinear: the grid covers zero and every value that the input
    has in this call, over the whole batch. Other readers of the same value see it as it is.

    Of an LSTM it stands at its first output, and its state is read through codes of its own at every step: see
    `network/dynamic_lstm.py`.
    """

    n_bits: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelQuantizer:
    """The layer whose result is at the call site reads its first input clipped to [-1, 1] and rounded to a few levels.

    `core/few_bits.py` says which. Other readers of the same value see it as it is.
    """

    n_bits: int
    kind: LevelRange = "full"

    @property
    def levels(self) -> Levels:
        """What the input is rounded to."""
        return Levels(self.n_bits, self.kind)


Quantizer = ActivationQuantizer | DynamicQuantizer | LevelQuantizer
