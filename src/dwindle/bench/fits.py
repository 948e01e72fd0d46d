"""This file compares what a file needs with the memory of devices: it fits, does not fit, or the file does not tell.

What a file needs stands in `bench/file_needs.py`. A device has two memories: flash, where the file lies, and RAM, where
an engine holds decoded weights and activations, unless it reads the weights from flash.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dwindle.artifact import Artifact
from dwindle.bench.devices import Device, devices
from dwindle.bench.file_needs import Needs, needs_of
from dwindle.bench.measurement import Estimate
from dwindle.errors import SettingError


class Verdict(enum.Enum):
    """Whether something fits into a memory."""

    FITS = "fits"
    DOES_NOT_FIT = "does not fit"
    UNKNOWN = "unknown"
    """What is needed, or how much there is, is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Something that needs memory, and the memory.

    Attributes:
        needed_bytes: None where they are not known.
        memory_bytes: of the device; None where they are not known.
        reserve: share of the memory that is kept for other things.
        is_least: at least `needed_bytes`, perhaps more.
    """

    needed_bytes: int | None
    memory_bytes: int | None
    reserve: float = 0.0
    is_least: bool = False

    @property
    def verdict(self) -> Verdict:
        """Whether it fits into what the reserve leaves."""
        if self.needed_bytes is None or self.memory_bytes is None:
            return Verdict.UNKNOWN
        if self.needed_bytes > self.memory_bytes * (1 - self.reserve):
            return Verdict.DOES_NOT_FIT
        return Verdict.UNKNOWN if self.is_least else Verdict.FITS

    @property
    def share(self) -> float | None:
        """Needed bytes ÷ all bytes of the memory; above 1 it is that many times too large."""
        return None if self.needed_bytes is None or self.memory_bytes is None else self.needed_bytes / self.memory_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One file on one device.

    Attributes:
        name: of the file.
        reserve: share of each memory that is kept for other things: firmware, an operating system, the engine.
    """

    device: Device
    name: str
    needs: Needs
    reserve: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.reserve < 1:
            raise SettingError(f"reserve must be a share in [0, 1), got {self.reserve}")

    @property
    def flash(self) -> Room:
        """The file as it is, in flash."""
        return self._room(self.needs.file_bytes, self.device.flash_bytes)

    @property
    def ram(self) -> Room:
        """Decoded weights and the arena of activations, in RAM; of a plain number of bytes, these bytes.

        Where only one of the two is known, it says what does not fit and leaves the rest unknown.
        """
        needs = self.needs
        if needs.artifact is None:
            return self._room(needs.file_bytes, self.device.ram_bytes)
        known = [found for found in (_bytes(needs.weights), needs.arena_bytes) if found is not None]
        is_least = len(known) < 2 or needs.is_least_arena
        return self._room(sum(known) if known else None, self.device.ram_bytes, is_least=is_least)

    @property
    def weights_in_flash(self) -> Room:
        """The weights in flash, decoded into arrays that an engine reads in place (`dwindle export --to c-int8`)."""
        return self._room(_bytes(self.needs.weights), self.device.flash_bytes)

    @property
    def activations_in_ram(self) -> Room:
        """The arena of activations alone in RAM, the weights being read from flash."""
        needs = self.needs
        return self._room(needs.arena_bytes, self.device.ram_bytes, is_least=needs.is_least_arena)

    @property
    def fits_in_place(self) -> bool:
        """Whether a microcontroller has room if it reads decoded weights from flash instead of holding them in RAM."""
        rooms = (self.weights_in_flash, self.activations_in_ram)
        return self.device.kind == "microcontroller" and all(room.verdict is Verdict.FITS for room in rooms)

    def _room(self, needed: int | None, memory: int | None, *, is_least: bool = False) -> Room:
        return Room(needed_bytes=needed, memory_bytes=memory, reserve=self.reserve, is_least=is_least)


def fits(
    file: Artifact | Path, catalogue: Sequence[Device] | None = None, *, reserve: float = 0.0
) -> tuple[Fit, ...]:  # fmt: skip
    """Return whether `file` fits on each device.

    Args:
        file: any file; of `.dwn` and `.onnx` more than the bytes on disk is known, of `.tflite` and `.pte` the arena
            where their engine is installed.
        catalogue: devices; those of the package by default.
        reserve: share of each memory that is kept for other things.

    Raises:
        MeasurementError: the file is absent, empty, has changed, or is no ONNX model though its name says so.
        ContainerError: a `.dwn` file is broken.
        SettingError: `reserve` is out of range.
    """
    needs = needs_of(file)
    name = (file if isinstance(file, Path) else file.path).name
    return _rows({name: needs}, catalogue, reserve)


def fit_rows(
    sizes: Mapping[str, int], catalogue: Sequence[Device] | None = None, *, reserve: float = 0.0
) -> tuple[Fit, ...]:  # fmt: skip
    """Return whether so many bytes fit on each device, in flash and in RAM: Table 1 of Tian et al. (2022).

    The table compares the size of a model with a memory and stops there: what decoding and activations add, only
    `fits` can tell, from a file.

    Args:
        sizes: bytes by the name to show.
        catalogue: devices; those of the package by default.
        reserve: share of each memory that is kept for other things.

    Raises:
        SettingError: a negative size, or `reserve` is out of range.

    >>> from dwindle.bench.devices import devices
    >>> pico = [device for device in devices() if device.name == "Raspberry Pi Pico"]
    >>> [fit.flash.verdict.value for fit in fit_rows({"dense": 44_800_040, "small": 600_000}, pico)]
    ['does not fit', 'fits']
    """
    return _rows({name: Needs(file_bytes=n_bytes) for name, n_bytes in sizes.items()}, catalogue, reserve)


def _rows(needs: Mapping[str, Needs], catalogue: Sequence[Device] | None, reserve: float) -> tuple[Fit, ...]:
    found = devices() if catalogue is None else catalogue
    return tuple(Fit(device=d, name=name, needs=n, reserve=reserve) for d in found for name, n in needs.items())


def _bytes(found: Estimate | None) -> int | None:
    return None if found is None else round(found.value)
