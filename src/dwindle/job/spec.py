"""This file says what a job.toml may contain, and reads one; an unknown key is an error that names the nearest one."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dwindle.errors import SettingError
from dwindle.settings import from_plain


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """`[network]`: `build` names `file.py:function`, called with `arguments`; `checkpoint` is a safetensors file."""

    build: str
    checkpoint: Path
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """`[data]`: `load` names `file.py:function`; it returns train, validation and test data sets of (input, target)."""

    load: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    n_calibration: int = 512


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """`[training]`: how the recipe's training steps train.

    `augment` names `file.py:function`, called with (inputs, generator); `patience` stops a step after so many epochs
    without a better validation result.
    """

    batch_size: int = 128
    learning_rate: float = 0.01
    augment: str | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    patience: int | None = None
    baseline_trains_equally: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not self.learning_rate > 0:
            raise SettingError(
                f"batch_size must be at least 1 and learning_rate positive, got {self.batch_size}, {self.learning_rate}"
            )


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """`[output]`: `folder` (relative to the job file), formats to deploy, time for a latency measurement."""

    folder: Path = Path("out")
    formats: tuple[str, ...] = ("dwn", "onnx")
    latency_seconds: float = 10.0


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """A whole job.toml; `Recipe` reads the table `recipe`, `Budget` the table `budget`."""

    network: NetworkSpec
    data: DataSpec
    recipe: Mapping[str, Any]
    name: str = "job"
    seed: int = 0
    training: TrainingSpec = TrainingSpec()
    output: OutputSpec = OutputSpec()
    budget: Mapping[str, Any] = field(default_factory=dict[str, Any])


def read_job(path: Path) -> JobSpec:
    """Return the specification in the TOML file `path`.

    Raises:
        SettingError: the file is absent or no TOML, a key is unknown, missing, or of the wrong type.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"{path} cannot be read ({error.strerror}); name an existing job.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} is not valid TOML: {error}") from error
    return from_plain(JobSpec, table, where=str(path))
