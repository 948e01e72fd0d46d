"""This file estimates the energy of an inference where no sensor is: operations and traffic, at published prices.

    energy = sum over types (multiply-adds x picojoules of one) + bytes moved x picojoules of a byte

A byte of a weight costs an access to DRAM where all weights and the values alive at once are more than the cache, else
one to the cache; a byte between operations costs DRAM only where the values alive at once do not fit by themselves.
Of a file that fixes a batch (the first size of all its inputs and outputs), a call is divided by its examples. That is
a lower end: instructions, control and leakage are not in it. What it is good for is comparing two files, and seeing
whether arithmetic or memory is what costs. Being no measurement it is an `Estimate`.
"""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dwindle.bench.energy.work import Kind, UncountedError, Work, work_of
from dwindle.bench.file_needs import model_at
from dwindle.bench.graph_shapes import UnknownShapeError
from dwindle.bench.measurement import ENERGY, Estimate
from dwindle.errors import MeasurementError, SettingError

CACHE_BYTES: Final = 1 << 20
_FILE: Final = "constants.toml"
_ACCESS_BYTES: Final = 8
_PICO_TO_MILLI: Final = 1e-9
_CACHES: Final = ((8 << 10, "cache_8_kb"), (32 << 10, "cache_32_kb"))
_LARGE_CACHE: Final = "cache_1_mb"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What things cost.

    Attributes:
        mac_pj: a multiplication and an addition, by type, in picojoules.
        access_pj: an access to 64 bits, by where they lie.
        source: where this is from.
    """

    mac_pj: Mapping[Kind, float]
    access_pj: Mapping[str, float]
    source: str

    def byte_pj(self, *, in_dram: bool, cache_bytes: int) -> float:
        """Return the picojoules of one byte, in DRAM or in a cache of so many bytes."""
        cache = next((name for size, name in _CACHES if cache_bytes <= size), _LARGE_CACHE)
        return self.access_pj["dram" if in_dram else cache] / _ACCESS_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyParts:
    """An estimate and its parts, in mJ.

    Attributes:
        operations: multiply-adds.
        weights: reading them once.
        values: writing and reading what passes between operations.
        method: how, with the source of the prices.
    """

    operations: float
    weights: float
    values: float
    method: str

    @property
    def estimate(self) -> Estimate:
        """The sum, as an estimate."""
        return Estimate(metric=ENERGY, value=self.operations + self.weights + self.values, method=self.method)


@functools.cache
def prices() -> Prices:
    """Return the prices in the package's `constants.toml`."""
    text = (importlib.resources.files("dwindle.bench.energy") / _FILE).read_text(encoding="utf-8")
    table: Mapping[str, Any] = tomllib.loads(text)
    return Prices(
        mac_pj={kind: price["multiply"] + price["add"] for kind, price in table["operation"].items()},
        access_pj=table["access"],
        source=table["source"],
    )


def estimated_energy(path: Path, *, cache_bytes: int = CACHE_BYTES) -> EnergyParts:
    """Return the estimated energy of one example through the `.onnx` or `.dwn` file at `path`.

    Args:
        path: a file with a graph.
        cache_bytes: the largest memory on the chip.

    Raises:
        SettingError: `cache_bytes` is not positive.
        MeasurementError: the file is absent, of another format, has no graph, its shapes do not follow from it, or it
            multiplies in a way that is not counted.
        ContainerError: a `.dwn` file is broken.
    """
    try:
        work = work_of(model_at(path))
    except UncountedError as error:
        raise MeasurementError(f"{path}: the energy cannot be estimated, {error}; measure it with a sensor") from error
    except UnknownShapeError as error:
        raise MeasurementError(
            f"{path}: the energy cannot be estimated, {error}; export it with fixed sizes"
        ) from error
    return energy_of(work, cache_bytes=cache_bytes)


def energy_of(work: Work, *, cache_bytes: int = CACHE_BYTES) -> EnergyParts:
    """Return what one example of `work` costs: a call of several is divided by their number.

    Raises:
        SettingError: `cache_bytes` is not positive.

    >>> work = Work(macs={"int8": 1_000_000}, weight_bytes=8_000, moved_bytes=4_000, living_bytes=2_000)
    >>> parts = energy_of(work)
    >>> f"{parts.operations:.6f} {parts.weights:.6f} {parts.values:.6f}"
    '0.000300 0.000100 0.000050'
    """
    if cache_bytes < 1:
        raise SettingError(f"cache_bytes must be positive, got {cache_bytes}; 1048576 is the default")
    paid = prices()
    from_dram = work.weight_bytes + work.living_bytes > cache_bytes
    is_large = work.living_bytes > cache_bytes
    picojoules = sum(n * paid.mac_pj[kind] for kind, n in work.macs.items())
    weights = work.weight_bytes * paid.byte_pj(in_dram=from_dram, cache_bytes=cache_bytes)
    values = work.moved_bytes * paid.byte_pj(in_dram=is_large, cache_bytes=cache_bytes)
    where = f"weights from {_place(in_dram=from_dram)}, values in {_place(in_dram=is_large)}"
    method = f"multiply-adds by type and bytes moved at the prices of {paid.source}; {where} of {cache_bytes:,} bytes"
    if from_dram and is_large:
        method = method.removesuffix(f" of {cache_bytes:,} bytes")
    if work.n_examples > 1:
        method += f"; a call of {work.n_examples} examples, divided by {work.n_examples}"
    share = _PICO_TO_MILLI / work.n_examples
    return EnergyParts(operations=picojoules * share, weights=weights * share, values=values * share, method=method)


def _place(*, in_dram: bool) -> str:
    return "DRAM" if in_dram else "a cache"
