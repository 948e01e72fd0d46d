"""This file says what a job.toml may contain, and reads one; an unknown key is an error that names the nearest one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast

from dwindle.errors import SettingError
from dwindle.exporters.options import OPSETS, ExportOptions, FloatType
from dwindle.exporters.preprocessing import Preprocessing
from dwindle.settings import from_plain, toml_table

STUDENT: Final = "student"
"""Name of the network in the table of this name."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """`[network]`: `build` names `file.py:function`, called with `arguments`; `checkpoint` is a safetensors file.

    `checkpoint = "none"` says that `build` returns a network which is trained already. `early` is a safetensors file of
    the same network early in its training, for steps that rewind to it.
    """

    build: str
    checkpoint: Path | None = Path()
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    early: Path | None = None

    def __post_init__(self) -> None:
        if self.checkpoint == Path():
            raise SettingError(
                "checkpoint is missing: name the safetensors file that holds the trained weights, or write "
                'checkpoint = "none" where build returns a trained network (a random one is not worth compressing)'
            )


@dataclass(frozen=True, kw_only=True)
class FurtherSpec:
    """`[student]` and `[networks.NAME]`: further networks that steps may name; `[student]` is called "student".

    `build` and `arguments` are as in `[network]`; without a `checkpoint` a network starts as `build` returns it.
    """

    build: str
    checkpoint: Path | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """`[data]`: `load` names `file.py:function`; it returns train, validation and test data sets of (input, target)."""

    load: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    n_calibration: int = 512


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """`[[task.metrics]]`: a metric by its `name`, or one of your own by `function`.

    `function` names `file.py:function`, called with (outputs, targets) as NumPy arrays; it returns one value for each
    example, true and false or numbers. Its `name` is that of the function unless said; `unit` is that of its values
    (`fraction` unless said, which fits true and false), and `better` says whether `more` of it is better, or `less`.
    Of the metrics known by name only errors in the unit of the targets take a `unit`.
    """

    name: str | None = None
    function: str | None = None
    unit: str | None = None
    better: Literal["more", "less"] | None = None

    def __post_init__(self) -> None:
        if self.name is None and self.function is None:
            raise SettingError("a metric needs a name, or a function of your own")
        if self.function is None and self.better is not None:
            raise SettingError(f"whether more of {self.name} is better is known; leave better out")


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """`[task]`: what the network is for; classes, cross entropy and accuracy where nothing is said.

    `loss` is one of cross_entropy, mse, l1, smooth_l1, bce_with_logits and bce, or `file.py:function`, called with
    (output, target); of the `metrics` the first is the one whose drop is measured.
    """

    loss: str = "cross_entropy"
    metrics: tuple[MetricSpec, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """`[training]`: how the recipe's training steps train.

    `optimizer` is sgd or adamw, `schedule` (of the learning rate) warm_up_cosine or long_warm_up_cosine; each may be a
    `file.py:function` as `FabricTrainer` takes it. `augment` names `file.py:function`, called with (inputs, generator);
    `patience` stops a step after so many epochs without a better validation result.
    """

    batch_size: int = 128
    learning_rate: float = 0.01
    optimizer: str = "sgd"
    schedule: str = "warm_up_cosine"
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
    """`[output]`: `folder` (relative to the job file), formats to deploy, time for a latency measurement.

    `memory`, `cpu_time` and `throughput_batch` (examples in a call) ask for more measurements; so do `energy`, of a
    call, and `arena`, which an engine plans: both are estimated, apart, where no sensor or engine tells them. `profile`
    says where the time of a call goes in the dense and in the compressed file (about a second).
    `opset`, `ir_version`, `batch_size` (any, unless a number fixes it) and `float_type` are those of
    `exporters.options.ExportOptions`.
    """

    folder: Path = Path("out")
    formats: tuple[str, ...] = ("dwn", "onnx")
    latency_seconds: float = 10.0
    memory: bool = False
    energy: bool = False
    arena: bool = False
    cpu_time: bool = False
    profile: bool = True
    throughput_batch: int | None = None
    opset: int = OPSETS[-1]
    ir_version: int | None = None
    batch_size: int | None = None
    float_type: FloatType = "float32"

    def __post_init__(self) -> None:
        self.options()

    def options(
        self, *, preprocessing: Preprocessing | None = None, class_names: tuple[str, ...] = ()
    ) -> ExportOptions:
        """Return what the graph in the files looks like."""
        return ExportOptions(
            opset=self.opset,
            ir_version=self.ir_version,
            batch_size=self.batch_size,
            float_type=self.float_type,
            preprocessing=preprocessing,
            class_names=class_names,
        )


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """A whole job.toml; `Recipe` reads the table `recipe`, `Budget` the table `budget`.

    `[preprocessing]` puts scale, mean, std and layout into the files, which then take raw inputs; the data sets still
    hold what the network takes.
    """

    network: NetworkSpec
    data: DataSpec
    recipe: Mapping[str, Any]
    name: str = "job"
    seed: int = 0
    student: FurtherSpec | None = None
    networks: Mapping[str, Any] = field(default_factory=dict[str, Any])
    task: TaskSpec = TaskSpec()
    training: TrainingSpec = TrainingSpec()
    preprocessing: Preprocessing | None = None
    output: OutputSpec = OutputSpec()
    budget: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def further(self, *, where: str) -> dict[str, FurtherSpec]:
        """Return the further networks by name; `where` names the place in messages.

        Raises:
            SettingError: one is no table or has a key that does not fit, or "student" is there twice.
        """
        found = {} if self.student is None else {STUDENT: self.student}
        for name, plain in self.networks.items():
            if name in found:
                raise SettingError(f"{where}: [student] and [networks.{name}] are the same network; keep one of them")
            if not isinstance(plain, Mapping):
                raise SettingError(f"{where}: networks.{name} must be a table with build, got {plain!r}")
            found[name] = from_plain(FurtherSpec, cast("Mapping[str, Any]", plain), where=f"{where}: networks.{name}")
        return found


def read_job(path: Path) -> JobSpec:
    """Return the specification in the TOML file `path`.

    Raises:
        SettingError: the file is absent or no TOML, a key is unknown, missing, or of the wrong type.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingError(f"{path} cannot be read ({error.strerror}); name an existing job.toml") from error
    except UnicodeDecodeError as error:
        raise SettingError(f"{path} is not UTF-8 text ({error.reason}); a job is a TOML file") from error
    return from_plain(JobSpec, toml_table(text, where=str(path)), where=str(path))
