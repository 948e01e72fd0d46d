"""This file says what the page of a study shows: tables, figures, claims to judge, and what advice is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from dwindle.errors import SettingError

METHOD: Final = "method"
"""Among the rows of a table: a stage, and where on its axes it is."""
Quantity = Literal[
    "accuracy",
    "accuracy_drop",
    "std_multiplier",
    "sparsity",
    "n_weights",
    "weight_ratio",
    "size_bytes",
    "compression_ratio",
    "epochs",
    "onnx_bytes",
    "onnx_ratio",
    "zipped_bytes",
    "zipped_ratio",
    "zip_gain",
    "test_seconds",
    "test_cpu_seconds",
    "speedup",
    "seconds_per_epoch",
    "top5_accuracy",
    "precision",
    "recall",
    "f1",
    "latency_ms",
    "memory_bytes",
    "energy_mj",
    "estimated_energy_mj",
    "dequantize_share",
    "distinct_weights",
    "dimension",
    "significance",
]
"""What a column shows.

- `accuracy` in percent, on the test split; the mean over the seeds.
- `accuracy_drop` in points, against the stage that `against` names, paired by example, the mean over the seeds.
- `std_multiplier`: what the paper calls sensitivity.
- `n_weights` that are not zero; `weight_ratio`: all weights over these.
- `size_bytes` of the `.dwn`, and `compression_ratio`: bytes of the dense fp32 weights over these.
- `onnx_bytes` and `onnx_ratio`, `zipped_bytes` and `zipped_ratio`: the same of the `.onnx` and of that in a zip
  archive; `zip_gain`: how many times smaller zip makes the `.onnx`.
- `test_seconds`: how long the `.onnx` takes for the whole test split, and `test_cpu_seconds` of processor time;
  `speedup`: how many times faster it is than that of the dense network that the case began with, timed in turn.
- `seconds_per_epoch` of training.
- `top5_accuracy`, `precision`, `recall` and `f1` in percent, the last three means over the classes.
- `latency_ms` of one call with one example, timed in turn with the dense network.
- `memory_bytes`: what loading and running the `.onnx` adds to a process.
- `energy_mj` of one call, measured by a sensor; `estimated_energy_mj` computed from operations and traffic.
- `dequantize_share`: percent of a call that quantizes or dequantizes as an operation of its own.
- `distinct_weights` of a `layer`, read back from the `.dwn`.
- `dimension` of what a `layer` gives, and `significance` of the layer, each by a `criterion`.
"""
HEATMAP: Final = "operators"
LAYER: Final = "layer"
CRITERION: Final = "criterion"
OF_LAYERS: Final[Mapping[Quantity, tuple[str, ...]]] = {
    "distinct_weights": (LAYER,),
    "dimension": (LAYER, CRITERION),
    "significance": (LAYER, CRITERION),
}
"""Quantities that an outcome has for each layer, and what tells these apart beside its axes."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        stage: whose figure it is; empty in a table whose rows are stages.
        at: fixed values of axes, beside those of the row.
        published: the key of the published figure in the rows of the table; None where the paper has none.
        published_factor: makes the published figure one of the unit shown.
    """

    title: str
    quantity: Quantity
    stage: str = ""
    at: Mapping[str, Any] = field(default_factory=dict[str, Any])
    published: str | None = None
    published_factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper, or one beyond it.

    Attributes:
        where: what all its rows share: `data`, or values of axes.
        rows: what tells them apart: `network`, `data`, axes; each in the order of the study. `method` stands for one of
            `stages` and its place on the axes.
        stages: whose outcomes are rows, in this order.
        published: rows as printed: values of `rows`, and figures by the key that a column names.
        mean_over: `data`: figures are means over the data sets, given only where all of the study's were run.
        is_published_for_all: whether published rows may leave out `network` and `data`; they then stand beside every
            case, because the paper has only one, which `published_about` has to say.
    """

    id: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[str, ...]
    stages: tuple[str, ...] = ()
    where: Mapping[str, Any] = field(default_factory=dict[str, Any])
    published: tuple[Mapping[str, Any], ...] = ()
    published_about: str = ""
    is_published_for_all: bool = False
    mean_over: tuple[str, ...] = ()
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture: one line or cloud for each network, a panel for each data set.

    Attributes:
        kind: `against_ratio`: a mark for each outcome, by its compression ratio. `against_axis`: a line for each
            network and each value of axes other than `axis`. `curves`: accuracy after every epoch, a panel for each
            case. `stage_curves`: loss and accuracy of training and validation, two panels for each case and stage.
            `operators`: the share of each class of operations in the time of a call, a row for each outcome.
            `bubbles`: accuracy drop against speed-up, each mark as large as the network has weights.
        stages: whose outcomes it shows; more than four kinds of them cannot be told apart.
        axis: of `against_axis`: what lies below.
        where: `network`, `data` or an axis, and the value or the list of values shown; all where nothing is said.
    """

    id: str
    title: str
    kind: Literal["against_ratio", "against_axis", "curves", "stage_curves", "operators", "bubbles"]
    stages: tuple[str, ...]
    axis: str | None = None
    quantity: Quantity = "accuracy"
    where: Mapping[str, Any] = field(default_factory=dict[str, Any])
    about: str = ""

    def __post_init__(self) -> None:
        if not self.stages:
            raise SettingError(f"figure {self.id!r} names no stage; give at least one")
        if (self.kind == "against_axis") != (self.axis is not None):
            raise SettingError(
                f"figure {self.id!r} is of kind {self.kind}; an axis is for against_axis, and needed there"
            )


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a condition: the mean of a quantity over all outcomes that match.

    Attributes:
        where: `network`, `data` or an axis, and the value or the list of values that match; all where nothing is said.
    """

    stage: str
    quantity: Quantity
    where: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class Condition:
    """`left` is below (above) `right`, or below (above) a number."""

    left: Side
    relation: Literal["below", "above"]
    right: Side | None = None
    bound: float | None = None

    def __post_init__(self) -> None:
        if (self.right is None) == (self.bound is None):
            raise SettingError("a condition compares with right or with bound: give exactly one of them")
        if self.right is not None and self.right.quantity != self.left.quantity:
            raise SettingError(f"a condition compares {self.left.quantity} with {self.right.quantity}; compare like")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence that figures confirm or refute: all of its conditions hold.

    Attributes:
        is_ours: whether we claim it, or the paper does.
    """

    id: str
    text: str
    conditions: tuple[Condition, ...]
    is_ours: bool = False

    def __post_init__(self) -> None:
        if not self.conditions:
            raise SettingError(f"claim {self.id!r} has no condition; give at least one")


@dataclass(frozen=True, kw_only=True)
class Advised:
    """What the advice of the page is about.

    Attributes:
        stages: whose files are weighed against each other; all of the study's where none is named.
        dense: the stage whose network is what a user has before compression.
        max_drop: the drop that a file may have, in points.
    """

    dense: str
    stages: tuple[str, ...] = ()
    max_drop: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 100:
            raise SettingError(f"advice: max_drop is in points, from 0 to 100, got {self.max_drop}")


@dataclass(frozen=True, kw_only=True)
class OnDevices:
    """Whose files are set against the memories of the catalogue of devices."""

    data: str
    stages: tuple[str, ...]
