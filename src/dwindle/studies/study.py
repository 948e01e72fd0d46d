"""This file says what a study is: cases, stages of recipes, presets, published tables and claims, read from one TOML.

A setting written as "$name" takes its value from the layers of values, the last of which wins: those of the study, of
the preset, of the case, of the preset for this data set, of the published variant, of the axes, of the stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dwindle.errors import SettingError
from dwindle.settings import nearest
from dwindle.studies.shown import CRITERION, LAYER, OF_LAYERS, Advised, Claim, Figure, OnDevices, Quantity, Table

Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What is measured of every outcome beside its `.dwn` and the answers of that.

    Attributes:
        onnx: write the `.onnx`, too, weigh it as it is and zipped, and let it answer the test split, one example at a
            time, which is timed: what an edge device does. The accuracy is then that of the `.onnx`.
        speedup_seconds: how long each side is timed in turn, the `.onnx` and that of the dense network; 0: not at all.
            A text such as "$speedup_seconds" takes a value.
        whole_set: whether the calls of the test split are timed, one example in each; else it is answered in batches.
        scores: metrics of the answers beside accuracy and top-5 accuracy, by name.
        memory: measure the memory of a fresh process that runs the `.onnx`.
        energy: measure the energy of a call where there is a sensor, else estimate it, which is another quantity.
        profile_runs: calls in which the `.onnx` is profiled, operation by operation; 0: none. A value likewise.
    """

    onnx: bool = False
    speedup_seconds: Any = 0
    whole_set: bool = True
    scores: tuple[str, ...] = ()
    memory: bool = False
    energy: bool = False
    profile_runs: Any = 0


@dataclass(frozen=True, kw_only=True)
class Built:
    """A further network of a case: `build` as in the case, called with `arguments`; its weights are drawn at random."""

    build: str
    arguments: Values = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a case begins: the outcome of another case, with the same seed, in place of random weights.

    Attributes:
        case: by its name, as in "QuantNet on cat/dog"; it stands before this one.
        stage: of that case; it has no axes.
        anew: globs of parameters and buffers that start as `build` draws them: the last layer, where the task is new.
    """

    case: str
    stage: str
    anew: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network on a data set.

    Attributes:
        network: as the paper calls it; with `data` the name of the case.
        data: as the paper calls it.
        build: `package.module:function` or `file.py:function` that returns the network, its weights drawn at random.
        load: the same for the data; called with `load_arguments` it returns splits.
        networks: what steps may name beside the network, such as a student: name -> a table as `Built` says.
        floor: accuracy in percent that the dense network must reach, or a drop against it means nothing.
        values: what "$name" stands for in this case.
        start: whose outcome its first stages start from; None: from random weights.
        stages: what is run of it; everything where nothing is said.
    """

    network: str
    data: str
    build: str
    load: str
    build_arguments: Values = field(default_factory=dict[str, Any])
    load_arguments: Values = field(default_factory=dict[str, Any])
    networks: Mapping[str, Any] = field(default_factory=dict[str, Any])
    floor: float | None = None
    values: Values = field(default_factory=dict[str, Any])
    start: Start | None = None
    stages: tuple[str, ...] = ()

    def has(self, stage: str) -> bool:
        """Return whether the stage of this name is run of it."""
        return not self.stages or stage in self.stages

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
        early: a stage that it comes from, whose network is the one early in training for steps that rewind.
        keeps_file: whether the deployed file stays in the folder after it was measured.
        judges_layers: whether the layers of its outcome are judged by the criteria of the study.
        values: what "$name" stands for in this stage; wins over everything else.
        label: what it is called in tables of stages and in advice; its name where nothing is said.
    """

    name: str
    label: str = ""
    after: str | None = None
    over: tuple[str, ...] = ()
    steps: tuple[Values, ...] = ()
    against: str | None = None
    early: str | None = None
    keeps_file: bool = False
    judges_layers: bool = False
    values: Values = field(default_factory=dict[str, Any])
    about: str = ""

    @property
    def words(self) -> str:
        """What people read."""
        return self.label or self.name.replace("_", " ")

    def words_at(self, at: Mapping[str, str]) -> str:
        """Return the same with where on the axes it is.

        >>> Stage(name="dense_longer").words_at({}), Stage(name="clustered").words_at({"init": "linear", "n": "32"})
        ('dense longer', 'clustered, linear, 32')
        """
        return ", ".join((self.words, *at.values()))


@dataclass(frozen=True, kw_only=True)
class Training:
    """How every stage trains; texts such as "$learning_rate" take a value.

    `schedule`, `optimizer`, `augment` and `reform` name a function or an object as `package.module:name`; "none" stands
    for none. `reform(splits, seed)` returns other splits: a published experiment may train on more, or look elsewhere.
    `loss` is one that a job may name, or a function likewise; cross entropy where nothing is said.
    """

    batch_size: Any = 64
    learning_rate: Any = 0.01
    augment: Any = None
    reform: Any = None
    schedule: Any = "dwindle.network.fabric_trainer:warm_up_cosine"
    optimizer: Any = "dwindle.network.fabric_trainer:sgd"
    patience: Any = None
    loss: Any = None


@dataclass(frozen=True, kw_only=True)
class Search:
    """Hyperparameters that `dwindle study search` draws at random.

    Attributes:
        case: by its name, such as "QuantNet on cat/dog".
        stage: what is trained; it starts from random weights.
        space: what "$name" may stand for: a list of values, or a table of `low`, `high` and `step`.
        n_trials: how many draws, unless said otherwise.
        published: what the paper found best, by the same names.
    """

    case: str
    stage: str
    space: Mapping[str, Any]
    n_trials: int = 20
    published: Values = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class Study:
    """A whole study.

    Attributes:
        name: in commands.
        axes: name -> value -> what "$name" stands for there; the order is that of tables.
        layers: what is said of single layers: a name in tables -> the name of the weight; "" is the network's input.
        criteria: what layers are judged by: a name in tables -> a criterion, as in `Significance(by=...)`.
        search: hyperparameters to search for; None: none.
        measures: what is measured of every outcome.
        as_published: the published protocol where ours differs from it.
        advice: what the page advises on; None: it gives no advice.
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
    layers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    criteria: Mapping[str, Any] = field(default_factory=dict[str, Any])
    search: Search | None = None
    measures: Measures = Measures()
    as_published: Variant = Variant()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    on_devices: OnDevices | None = None
    advice: Advised | None = None
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
        return tuple(name for name in self.known_axes[axis] if name in preset.axes.get(axis, self.known_axes[axis]))

    @property
    def known_axes(self) -> Mapping[str, Any]:
        """The axes of outcomes, and what figures of single layers are told apart by."""
        return {**self.axes, LAYER: self.layers, CRITERION: self.criteria}

    def axes_for(self, stage: Stage, quantity: Quantity) -> tuple[str, ...]:
        """Return what the figures of `quantity` that `stage` has differ along."""
        return (*self.axes_of(stage), *OF_LAYERS.get(quantity, ()))

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
