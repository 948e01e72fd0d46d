"""This file holds a job with everything loaded: what `run_job` needs and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

from torch import nn
from torch.utils.data import Dataset

from dwindle.bench.budget import Budget
from dwindle.bench.deployment import EXPORTERS
from dwindle.bench.plan import Plan
from dwindle.bench.protocol import LatencyProtocol
from dwindle.errors import DataError, SettingError
from dwindle.exporters.options import ExportOptions
from dwindle.job.task import Task
from dwindle.network.train import Trainer
from dwindle.recipe import Recipe
from dwindle.settings import nearest

Examples = Dataset[Any]
"""Items are `(input, target)`; several inputs are a tuple."""


COMPARED: Final = frozenset({"dwn", "onnx"})
"""Formats that onnxruntime runs, which times a file in turn with the dense one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """Three splits of `(input, target)` examples: train to learn, validation to decide, test to read once."""

    name: str
    train: Examples
    validation: Examples
    test: Examples
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, value: Any, *, name: str) -> Data:
        """Return the data that a user's function gave: an object with train, validation and test, or these three.

        Raises:
            DataError: it is neither.
        """
        parts = ("train", "validation", "test")
        splits: dict[str, Any]
        if isinstance(value, tuple | list) and len(cast("tuple[Any, ...]", value)) == len(parts):
            splits = dict(zip(parts, cast("tuple[Any, ...]", value), strict=True))
        elif isinstance(value, Mapping):
            splits = {part: cast("Mapping[str, Any]", value).get(part) for part in parts}
        else:
            splits = {part: getattr(value, part, None) for part in parts}
        if missing := [part for part, split in splits.items() if split is None]:
            raise DataError(
                f"{name} returned {type(value).__name__} without {', '.join(missing)}; "
                "return (train, validation, test), each a data set of (input, target)"
            )
        for part, split in splits.items():
            if not (hasattr(split, "__len__") and hasattr(split, "__getitem__")) or isinstance(split, tuple | str):
                raise DataError(
                    f"{name} returned {type(split).__name__} as {part}; return a data set of (input, target) with a "
                    "length and items by number: TensorDataset(x, y) of tensors, loader.dataset of a DataLoader"
                )
        class_names = tuple(str(c) for c in getattr(value, "class_names", ()))
        return cls(name=str(getattr(value, "name", name)), class_names=class_names, **splits)


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A network somebody trained, its data, a recipe, and where the files go.

    Attributes:
        task: what it is trained with and judged by; the trainer descends the same loss.
        baseline_trains_equally: the dense network that the outcome is compared with gets the recipe's training, too:
            the same number of epochs at the same learning rates. Otherwise a gain from mere training would look like
            a gain from compression.
        n_calibration: training examples used for calibration.
        export: what the graph in the files looks like; where it preprocesses, the data sets still hold what the network
            takes, and the files are measured on the raw inputs that become these.
        latency_seconds: wall-clock limit of each latency measurement.
        throughput_batch: examples in one call while throughput is measured; None measures none.
        measures_memory: whether memory is measured, in fresh processes (some seconds for each file).
        measures_energy: whether the energy of a call is measured (half a minute for each file); where no sensor can be
            read it is estimated, apart from all measurements.
        measures_arena: whether the arena is read out of engines that plan one; of other files it is estimated.
        measures_cpu_time: whether the processor time of a call is measured.
        profiles_operators: whether onnxruntime's profile of the dense and of the compressed file is taken (about a
            second).
        early: the network as it was early in its training, for steps that rewind to it.
        networks: further networks by a name that steps may say: students, and teachers of an ensemble.
    """

    name: str
    network: nn.Module
    data: Data
    recipe: Recipe
    trainer: Trainer
    out: Path
    task: Task = field(default_factory=Task)
    seed: int = 0
    formats: tuple[str, ...] = ("dwn", "onnx")
    budget: Budget | None = None
    baseline_trains_equally: bool = True
    n_calibration: int = 512
    export: ExportOptions = field(default_factory=ExportOptions)
    latency_seconds: float = 10.0
    throughput_batch: int | None = None
    measures_memory: bool = False
    measures_energy: bool = False
    measures_arena: bool = False
    measures_cpu_time: bool = False
    profiles_operators: bool = True
    command: str = ""
    early: nn.Module | None = None
    networks: Mapping[str, nn.Module] = field(default_factory=dict[str, nn.Module])
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if not self.formats or len(set(self.formats)) < len(self.formats):
            raise SettingError(f"formats names each format once and at least one, got {list(self.formats)}")
        for name in self.formats:
            if name not in EXPORTERS:
                raise SettingError(f"unknown format {name!r}; {nearest(name, EXPORTERS)}")
        if not COMPARED & set(self.formats):
            raise SettingError(
                f"formats are {', '.join(self.formats)}, but the dense network is compared with as a .dwn or an .onnx; "
                "add one of them"
            )
        if self.n_calibration < 1:
            raise SettingError(f"n_calibration must be at least 1, got {self.n_calibration}")
        if not self.latency_seconds > 0:
            raise SettingError(f"latency_seconds must be positive, got {self.latency_seconds}")
        fixed = self.export.batch_size
        if self.throughput_batch is not None and fixed not in {None, self.throughput_batch}:
            raise SettingError(
                f"throughput_batch = {self.throughput_batch}, but the files take {fixed} examples at a time"
            )

    @property
    def plan(self) -> Plan:
        """How the files are measured; whether a sensor tells their energy is found out when they are."""
        plan = Plan(
            latency=LatencyProtocol(seconds=self.latency_seconds),
            scores=self.task.scores,
            threshold=self.task.threshold,
            throughput_batch=self.throughput_batch,
            memory=self.measures_memory,
            arena=self.measures_arena,
            cpu_time=self.measures_cpu_time,
        )
        size = self.export.batch_size
        return plan if size is None else replace(plan, batch_size=size, latency_batch=size)
