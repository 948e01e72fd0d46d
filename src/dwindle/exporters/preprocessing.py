"""This file says what an application does to its inputs before the network sees them, in the arithmetic of a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dwindle.errors import SettingError

Array = npt.NDArray[Any]
LARGEST_BYTE: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """What happens to a raw input before the network sees it: (x * scale - mean) / std for each channel.

    Attributes:
        scale: 1 / 255 brings bytes to [0, 1].
        mean: one value for each channel, or one for all; in the units after `scale`.
        std: likewise; positive.
        is_uint8: the raw input holds bytes instead of floats.
        channels_last: the raw input is (batch, height, width, channels), as cameras and image libraries give it.
    """

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    is_uint8: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.scale, *self.mean, *self.std))) or not all(value > 0 for value in self.std):
            raise SettingError(f"{self}: scale, mean and std must be finite and std positive")
        if not self.mean or not self.std:
            raise SettingError(f"{self}: mean and std need one value for each channel, or one for all")
        if self.scale == 0:
            raise SettingError(f"{self}: a scale of 0 makes every input the same; 1 changes nothing")

    def parts(self) -> Mapping[str, tuple[float, ...]]:
        """Return what is multiplied, subtracted and divided by, by the names that the graph gives them."""
        return {"factor": (self.scale,), "mean": self.mean, "std": self.std}

    def apply(self, raw: Array) -> Array:
        """Return what the network sees of `raw`, float32 (batch, channels, ...), with the roundings of the file.

        >>> Preprocessing(scale=1 / 255, std=(0.5,)).apply(np.full((1, 1), 51, np.uint8)).tolist()
        [[0.4000000059604645]]
        """
        values = np.moveaxis(raw, -1, 1) if self.channels_last else raw
        factor, mean, std = (self.spread(numbers, values.ndim) for numbers in self.parts().values())
        return (values.astype(np.float32) * factor - mean) / std

    def raw(self, ready: Array) -> Array:
        """Return the raw input, of the type and layout of the file, that `apply` brings nearest to `ready`.

        Args:
            ready: float (batch, channels, ...), as the network sees it.
        """
        factor, mean, std = (self.spread(numbers, ready.ndim) for numbers in self.parts().values())
        values = (ready.astype(np.float32) * std + mean) / factor
        values = np.moveaxis(values, 1, -1) if self.channels_last else values
        if self.is_uint8:
            return np.clip(np.rint(values), 0, LARGEST_BYTE).astype(np.uint8)
        return np.ascontiguousarray(values, dtype=np.float32)

    def spread(self, numbers: tuple[float, ...], n_axes: int) -> Array:
        """Return `numbers` as float32 in a shape that broadcasts against (batch, channels, ...) of `n_axes` axes."""
        return np.asarray(numbers, dtype=np.float32).reshape(-1, *([1] * (n_axes - 2)))
