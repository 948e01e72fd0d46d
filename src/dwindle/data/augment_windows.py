"""This file varies windows of sensor readings at random, a whole batch at a time, from a seeded generator.

An augmentation is called as `augment(windows, generator)` with windows (batch, channels, readings), which is what
`FabricTrainer` does; each window is varied by its own draws. After T. Um et al., "Data augmentation of wearable sensor
data for Parkinson's disease monitoring using convolutional neural networks", ICMI 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dwindle.data.augment import Chain
from dwindle.errors import DataError, SettingError


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomShift:
    """Start each window at a reading of its own: what is cut off at one end comes back at the other.

    Attributes:
        n_readings: the longest shift either way; None draws from all readings.

    Raises:
        SettingError: `n_readings` is below 1.
    """

    n_readings: int | None = None

    def __post_init__(self) -> None:
        if self.n_readings is not None and self.n_readings < 1:
            raise SettingError(f"RandomShift: n_readings must be at least 1, got {self.n_readings}")

    def __call__(self, windows: Tensor, generator: torch.Generator) -> Tensor:
        """Return windows of the same shape."""
        n, length = _shape(windows, "RandomShift")
        most = length // 2 if self.n_readings is None else self.n_readings
        shifts = torch.randint(-most, most + 1, (n,), generator=generator).to(windows.device)
        places = (torch.arange(length, device=windows.device) - shifts[:, None]) % max(length, 1)
        return windows.gather(2, places[:, None, :].expand(windows.shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomScale:
    """Multiply each channel of each window by a factor drawn around 1 with standard deviation `std`.

    Raises:
        SettingError: `std` is not positive.
    """

    std: float = 0.1

    def __post_init__(self) -> None:
        _require_positive(self.std, "RandomScale")

    def __call__(self, windows: Tensor, generator: torch.Generator) -> Tensor:
        """Return windows of the same shape."""
        _shape(windows, "RandomScale")
        factors = 1.0 + self.std * torch.randn((*windows.shape[:2], 1), generator=generator)
        return windows * factors.to(windows)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomOffset:
    """Add to each channel of each window one number, drawn around 0 with standard deviation `std`.

    A sensor that is worn a little otherwise reads gravity otherwise; without this a network learns how each person in
    the training set wore it.

    Raises:
        SettingError: `std` is not positive.
    """

    std: float = 0.2

    def __post_init__(self) -> None:
        _require_positive(self.std, "RandomOffset")

    def __call__(self, windows: Tensor, generator: torch.Generator) -> Tensor:
        """Return windows of the same shape."""
        _shape(windows, "RandomOffset")
        return windows + (self.std * torch.randn((*windows.shape[:2], 1), generator=generator)).to(windows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Jitter:
    """Add to each reading noise of standard deviation `std`, in the unit of the windows.

    Raises:
        SettingError: `std` is not positive.
    """

    std: float = 0.1

    def __post_init__(self) -> None:
        _require_positive(self.std, "Jitter")

    def __call__(self, windows: Tensor, generator: torch.Generator) -> Tensor:
        """Return windows of the same shape."""
        _shape(windows, "Jitter")
        return windows + (self.std * torch.randn(windows.shape, generator=generator)).to(windows)


def _require_positive(std: float, what: str) -> None:
    if not 0 < std < float("inf"):
        raise SettingError(f"{what}: std must be positive and finite, got {std}")


def _shape(windows: Tensor, what: str) -> tuple[int, int]:
    if windows.dim() != 3 or not windows.is_floating_point():
        raise DataError(
            f"{what} takes floating-point windows (batch, channels, readings), got {windows.dtype} of shape "
            f"{tuple(windows.shape)}"
        )
    return windows.shape[0], windows.shape[2]


shift_offset_and_jitter = Chain((RandomShift(), RandomOffset(), Jitter()))
"""For standardized windows."""
