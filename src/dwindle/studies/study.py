"""This file says what a study is: cases, stages of recipes, presets, published tables and claims, read from one TOML.

A setting written as "$name" takes its value from the layers of values, the last of which wins: those of the study, of
the preset, of the case, of the preset for this data set, of the published variant, of the axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dwindle.errors import SettingError
from dwindle.settings import nearest

Values = Mapping[str, Any]
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
]
"""What a column shows.

- `accuracy` in percent, on the test split; the mean over the seeds.
- `accuracy_drop` in points, against the stage that `against` names, paired by example, the mean over the seeds.
- `std_multiplier`: what the paper calls sensitivity.
- `n_weights` that are not zero; `weight_ratio`: all weights over these.
- `size_bytes` of the file, and `compression_ratio`: bytes of the dense fp32 weights over these.
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network on a data set.

    Attributes:
        network: as the paper calls it; with `data` the name of the case.
        data: as the paper calls it.
        build: `package.module:function` or `file.py:function` that returns the network, its weights drawn at random.
        load: the same for the data; called with `load_arguments` it returns splits.
        floor: accuracy in percent that the dense network must reach, or a drop against it means nothing.
        values: what "$name" stands for in this case.
    """

    network: str
    data: str
    build: str
    load: str
    build_arguments: Values = field(default_factory=dict[str, Any])
    load_arguments: Values = field(default_factory=dict[str, Any])
    floor: float | None = None
    values: Values = field(default_factory=dict[str, Any])

    @property
    def name(self) -> str:
        """Network and data set."""
        return f"{self.network} on {self.data}"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How much work is done.

    Attributes:
        about: one line: how long it takes, and what for.
        data: the data sets it runs on.
        seeds: one training from scratch for each.
        axes: what it takes of an axis, all of it where nothing is said.
        values: what "$name" stands for.
        by_data: the same for one data set, or for one case by its name, which wins.
    """

    about: str
    data: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    axes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    values: Values = field(default_factory=dict[str, Any])
    by_data: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if not self.data or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise SettingError("a preset needs at least one data set, and seeds that differ")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What the published experiments do otherwise: values that win over those of the preset."""

    about: str = ""
    values: Values = field(default_factory=dict[str, Any])
    by_data: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Steps of a recipe, applied to the outcome of another stage; its file is measured.

    Attributes:
        after: the stage whose outcome it starts from; None starts from random weights.
        over: axes; one outcome for each combination of their values, beside those of the stage before.
        steps: as in a recipe; "$name" takes a value.
        against: the stage whose answers the accuracy drop is taken from; as a rule dense, with as much training.
        keeps_file: whether the deployed file stays in the folder after it was measured.
    """

    name: str
    after: str | None = None
    over: tuple[str, ...] = ()
    steps: tuple[Values, ...] = ()
    against: str | None = None
    keeps_file: bool = False
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How every stage trains; texts such as "$learning_rate" take a value.

    `schedule`, `optimizer`, `augment` and `reform` name a function or an object as `package.module:name`; "none" stands
    for none. `reform(splits, seed)` returns other splits: a published experiment may train on more, or look elsewhere.
    """

    batch_size: Any = 64
    learning_rate: Any = 0.01
    augment: Any = None
    reform: Any = None
    schedule: Any = "dwindle.network.fabric_trainer:warm_up_cosine"
    optimizer: Any = "dwindle.network.fabric_trainer:sgd"
    patience: Any = None


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        stage: whose figure it is.
        at: fixed values of axes, beside those of the row.
        published: the key of the published figure in the rows of the table; None where the paper has none.
        published_factor: makes the published figure one of the unit shown.
    """

    title: str
    stage: str
    quantity: Quantity
    at: Mapping[str, Any] = field(default_factory=dict[str, Any])
    published: str | None = None
    published_factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper, or one beyond it.

    Attributes:
        where: what all its rows share: `data`, or values of axes.
        rows: what tells them apart: `network`, `data`, axes; each in the order of the study.
        published: rows as printed: values of `rows`, and figures by the key that a column names.
        mean_over: `data`: figures are means over the data sets, given only where all of the study's were run.
    """

    id: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[str, ...]
    where: Mapping[str, Any] = field(default_factory=dict[str, Any])
    published: tuple[Values, ...] = ()
    published_about: str = ""
    mean_over: tuple[str, ...] = ()
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture: one line or cloud for each network, a panel for each data set.

    Attributes:
        kind: `against_ratio`: a mark for each outcome, by its compression ratio. `against_axis`: a line for each
            network and each value of axes other than `axis`. `curves`: accuracy after every epoch, a panel for each
            case.
        stages: whose outcomes it shows; more than four kinds of them cannot be told apart.
        axis: of `against_axis`: what lies below.
        where: `network`, `data` or an axis, and the value or the list of values shown; all where nothing is said.
    """

    id: str
    title: str
    kind: Literal["against_ratio", "against_axis", "curves"]
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
class OnDevices:
    """Whose files are set against the memories of the catalogue of devices."""

    data: str
    stages: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A whole study.

    Attributes:
        name: in commands.
        axes: name -> value -> what "$name" stands for there; the order is that of tables.
        as_published: the published protocol where ours differs from it.
        differences: what is done otherwise than in the paper, and why; one sentence each.
    """

    name: str
    title: str
    source: str
    cases: tuple[Case, ...]
    stages: tuple[Stage, ...]
    presets: Mapping[str, Any]
    axes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    training: Training = Training()
    values: Values = field(default_factory=dict[str, Any])
    as_published: Variant = Variant()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    on_devices: OnDevices | None = None
    claims: tuple[Claim, ...] = ()
    differences: tuple[str, ...] = ()

    def preset(self, name: str) -> Preset:
        """Return the preset called `name`.

        Raises:
            SettingError: there is none of this name.
        """
        if name not in self.presets:
            raise SettingError(f"study {self.name} has no preset {name!r}; {nearest(name, self.presets)}")
        return self.presets[name]

    def stage(self, name: str) -> Stage:
        """Return the stage called `name`.

        Raises:
            SettingError: there is none of this name.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise SettingError(f"study {self.name} has no stage {name!r}; {nearest(name, [s.name for s in self.stages])}")

    def table(self, table_id: str) -> Table:
        """Return the table called `table_id`.

        Raises:
            SettingError: there is none of this name.
        """
        for table in self.tables:
            if table.id == table_id:
                return table
        known = [table.id for table in self.tables]
        raise SettingError(f"study {self.name} has no table {table_id!r}; {nearest(table_id, known)}")

    def options_of(self, axis: str, preset: Preset) -> tuple[str, ...]:
        """Return the values that `preset` takes of an axis, in the order of the study."""
        return tuple(name for name in self.axes[axis] if name in preset.axes.get(axis, self.axes[axis]))

    def axes_of(self, stage: Stage) -> tuple[str, ...]:
        """Return the axes along which the outcomes of `stage` differ, those of the stages before it first."""
        before = () if stage.after is None else self.axes_of(self.stage(stage.after))
        return (*before, *(axis for axis in stage.over if axis not in before))

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of networks, in order."""
        return tuple(dict.fromkeys(case.network for case in self.cases))

    @property
    def data(self) -> tuple[str, ...]:
        """Names of data sets, in order."""
        return tuple(dict.fromkeys(case.data for case in self.cases))
