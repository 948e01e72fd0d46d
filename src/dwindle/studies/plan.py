"""This file unfolds a study into outcomes: one for each case, seed, stage and place on the axes, parents first."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final, cast

from dwindle.errors import SettingError
from dwindle.recipe import Recipe
from dwindle.recipe.named import named_in
from dwindle.settings import nearest
from dwindle.studies.study import Case, Measures, Preset, Stage, Study, Training, Values
from dwindle.technique import Needs, epochs_of

REFERENCE: Final = "$"
"""Begins a text that takes a value."""
MAX_OUTCOMES: Final = 100_000
"""More of them are a mistake in the axes, not a study."""
MAX_SEED: Final = 2**63 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """What of a study is run: everything of the preset unless said otherwise."""

    preset: str = "laptop"
    networks: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    table: str | None = None
    as_published: bool = False

    def __post_init__(self) -> None:
        for seed in self.seeds:
            if not 0 <= seed <= MAX_SEED:
                raise SettingError(f"seed {seed} is out of range; give numbers from 0 to {MAX_SEED}")
        for what, given in (("network", self.networks), ("data set", self.data), ("seed", self.seeds)):
            if len(set(given)) < len(given):
                raise SettingError(f"a {what} is there twice among {', '.join(map(str, given))}; name each once")


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One outcome to be made: a model, its file, and what the file answers.

    Attributes:
        at: axis -> name of the value.
        steps: as in a recipe, every value in its place.
        training: settings of the trainer, likewise.
        parent: whose outcome it starts from; None starts from random weights.
        study: name of the study; no part of the key.
        measures: what is measured of it, every value in its place; no part of the key, either.
        layers: what is said of which layers; no part of the key, either.
        criteria: what judges layers, where the stage asks for that; no part of the key, either.
        anew: of the weights that it starts from, outcome of another case, those that are drawn again.
        networks: of those that the case offers beside its own the ones that `steps` name, every value in its place.
    """

    case: Case
    seed: int
    stage: Stage
    at: Mapping[str, str]
    steps: tuple[Values, ...]
    training: Values
    load_arguments: Values
    build_arguments: Values
    preset: str
    is_as_published: bool
    parent: Node | None = field(default=None, repr=False)
    study: str = ""
    measures: Measures = field(default_factory=Measures)
    layers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    criteria: Mapping[str, Values] = field(default_factory=dict[str, Values], repr=False)
    anew: tuple[str, ...] = ()
    networks: Mapping[str, Values] = field(default_factory=dict[str, Values], repr=False)

    @cached_property
    def recipe(self) -> Recipe:
        """The steps, ready to run.

        Raises:
            SettingError: an unknown technique or setting, or a value that does not fit.
        """
        return _recipe(json.dumps(self.steps, default=str), f"stage {self.stage.name!r}")

    @cached_property
    def key(self) -> str:
        """Hash of all that decides the outcome: who made it earlier need not make it again."""
        parts = [
            self.case.build, self.build_arguments, self.case.load, self.load_arguments, self.seed, self.training,
            self.steps, None if self.parent is None else self.parent.key,
            *([self.networks] if self.networks else []),  # keys of earlier studies stay what they were
            *([] if self.early is None else [{"early": self.early.key}]),
            *([{"anew": list(self.anew)}] if self.anew else []),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def label(self) -> dict[str, Any]:
        """What a table finds it by."""
        return {
            "network": self.case.network,
            "data": self.case.data,
            "seed": self.seed,
            "stage": self.stage.name,
            "at": dict(self.at),
        }

    @property
    def words(self) -> str:
        """What a person reads."""
        places = "".join(f", {value}" for value in self.at.values())
        return f"{self.case.name}, seed {self.seed}: {self.stage.name}{places}"

    @cached_property
    def epochs(self) -> float:
        """How long it trains."""
        return sum(epochs_of(step) for step in self.recipe.steps)

    @property
    def trains(self) -> bool:
        """Whether a step trains."""
        return any(Needs.TRAINING in step.needs for step in self.recipe.steps)

    @property
    def early(self) -> Node | None:
        """The ancestor to whose weights a step may rewind; None where the stage names none."""
        node = None if self.stage.early is None else self.parent
        while node is not None and node.stage.name != self.stage.early:
            node = node.parent
        return node

    @property
    def root(self) -> Node:
        """The first of its ancestors in the same case."""
        return self if self.parent is None or self.parent.case is not self.case else self.parent.root


def unfold(study: Study, choice: Choice) -> tuple[Node, ...]:
    """Return all outcomes that `choice` asks for, each after its parent, and what they are compared with.

    Raises:
        SettingError: the choice names what the study does not have or leaves nothing, a "$name" has no value or leads
            back to itself, or a step does not fit.
    """
    preset = study.preset(choice.preset)
    wanted = _wanted_stages(study, choice)
    found: list[Node] = []
    for case in _cases(study, preset, choice):
        for seed in choice.seeds or preset.seeds:
            found.extend(_with_start(study, preset, choice, which=(case, seed), stages=wanted, found=found))
        if len(found) > MAX_OUTCOMES:
            raise SettingError(f"study {study.name}: more than {MAX_OUTCOMES:,} outcomes; shorten an axis")
    if not found:
        raise SettingError(_nothing(study, preset, choice))
    for node in found:
        try:
            _ = node.recipe  # a wrong setting shows before hours of training
        except SettingError as error:
            raise SettingError(f"study {study.name}, {node.case.name}: {error}") from error
    return tuple(found)


def _nothing(study: Study, preset: Preset, choice: Choice) -> str:
    """Say why nothing is left to do."""
    where = {} if choice.table is None else dict(study.table(choice.table).where)
    about = f"table {choice.table} is about {', '.join(map(str, where.values()))}, and " if where else ""
    networks = ", ".join(choice.networks) or "every network"
    data = ", ".join(choice.data or preset.data)
    return (
        f"study {study.name} has nothing to run: {about}preset {choice.preset} was asked for {networks} on {data}; "
        f"choose another preset ({', '.join(study.presets)}), network or data set"
    )


def _cases(study: Study, preset: Preset, choice: Choice) -> Iterator[Case]:
    for given, known, what in (
        (choice.networks, study.networks, "network"),
        (choice.data, preset.data, "data set"),
    ):
        for name in given:
            if name.casefold() not in {k.casefold() for k in known}:
                raise SettingError(f"study {study.name} has no {what} {name!r} here; {nearest(name, known)}")
    networks = {name.casefold() for name in choice.networks or study.networks}
    data = {name.casefold() for name in choice.data or preset.data} & {name.casefold() for name in preset.data}
    where: Mapping[str, Any] = {} if choice.table is None else study.table(choice.table).where
    for case in study.cases:
        is_in_table = all(getattr(case, key) == where[key] for key in ("network", "data") if key in where)
        if case.network.casefold() in networks and case.data.casefold() in data and is_in_table:
            yield case


def _wanted_stages(study: Study, choice: Choice) -> set[str]:
    """Return the stages that are asked for, all that they come from, and what they are compared with."""
    if choice.table is None:
        return {stage.name for stage in study.stages}
    wanted: set[str] = set()
    table = study.table(choice.table)
    waiting = [*table.stages, *(column.stage for column in table.columns if column.stage)]
    while waiting:
        stage = study.stage(waiting.pop())
        if stage.name not in wanted:
            wanted.add(stage.name)
            waiting.extend(name for name in (stage.after, stage.against) if name is not None)
    return wanted


def _with_start(
    study: Study, preset: Preset, choice: Choice, *, which: tuple[Case, int], stages: set[str], found: Sequence[Node]
) -> list[Node]:
    """Return the outcomes of a case and seed, behind those of other cases that it starts from and `found` lacks."""
    case, seed = which
    if case.start is None:
        return list(_of_case(study, preset, choice, which=which, stages=stages))
    known = {node.key: node for node in found}
    source = next(other for other in study.cases if other.name == case.start.case)
    chain = _with_ancestors(study, case.start.stage)
    before = _with_start(study, preset, choice, which=(source, seed), stages=chain, found=())
    start = next(node for node in before if node.case is source and node.stage.name == case.start.stage)
    own = _of_case(study, preset, choice, which=which, stages=stages, start=known.get(start.key, start))
    return [*(node for node in before if node.key not in known), *own]


def _with_ancestors(study: Study, stage: str) -> set[str]:
    after = study.stage(stage).after
    return {stage} if after is None else {stage, *_with_ancestors(study, after)}


def _of_case(
    study: Study,
    preset: Preset,
    choice: Choice,
    *,
    which: tuple[Case, int],
    stages: set[str],
    start: Node | None = None,
) -> Iterator[Node]:
    case, seed = which
    layers = [study.values, preset.values, case.values, *_of_data(preset.by_data, case)]
    if choice.as_published:
        layers += [study.as_published.values, *_of_data(study.as_published.by_data, case)]
    made: dict[tuple[str, tuple[str, ...]], Node] = {}
    for stage in (s for s in study.stages if s.name in stages and case.has(s.name)):
        axes = study.axes_of(stage)
        if math.prod(len(study.options_of(axis, preset)) for axis in axes) > MAX_OUTCOMES:
            raise SettingError(
                f"study {study.name}, stage {stage.name!r}: more than {MAX_OUTCOMES:,} outcomes; shorten an axis"
            )
        for place in itertools.product(*(study.options_of(axis, preset) for axis in axes)):
            at = dict(zip(axes, place, strict=True))
            values = _merged((*layers, *(study.axes[axis][value] for axis, value in at.items()), stage.values))
            where = f"study {study.name}, {case.name}, stage {stage.name!r}"
            steps = tuple(_filled(step, values, where) for step in stage.steps)
            named = {name: case.networks[name] for step in steps for name in named_in(step) if name in case.networks}
            node = Node(
                case=case,
                seed=seed,
                stage=stage,
                at=at,
                steps=steps,
                training=_filled(_said(study.training), values, where),
                load_arguments=_filled(case.load_arguments, values, where),
                build_arguments=_filled(case.build_arguments, values, where),
                preset=choice.preset,
                is_as_published=choice.as_published,
                parent=start if stage.after is None else _parent(study, stage, at, made=made),
                anew=case.start.anew if case.start is not None and stage.after is None else (),
                study=study.name,
                measures=Measures(**_filled(dict(vars(study.measures)), values, where)),
                layers=study.layers,
                criteria=study.criteria if stage.judges_layers else {},
                networks=_filled(named, values, where),
            )
            made[stage.name, place] = node
            yield node


def _said(training: Training) -> dict[str, Any]:
    """Return the settings of the training; a loss that nobody named is left out, and keys stay what they were."""
    return {name: value for name, value in vars(training).items() if name != "loss" or value is not None}


def _of_data(by_data: Mapping[str, Any], case: Case) -> Iterator[Values]:
    """Yield the values for the data set of a case, then those for the case itself."""
    for name in (case.data, case.name):
        yield by_data.get(name, {})


def _parent(
    study: Study, stage: Stage, at: Mapping[str, str], *, made: Mapping[tuple[str, tuple[str, ...]], Node]
) -> Node:
    after = stage.after or ""
    axes = study.axes_of(study.stage(after))
    return made[after, tuple(at[axis] for axis in axes)]


def _merged(layers: Iterable[Values]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(layer)
    return merged


def _filled(value: Any, values: Values, where: str, *, within: tuple[str, ...] = ()) -> Any:
    """Return `value` with every "$name" in it replaced; `within` are the names that led to it."""
    if isinstance(value, str) and value.startswith(REFERENCE):
        name = value.removeprefix(REFERENCE)
        if name in within:
            chain = " -> ".join(f"{REFERENCE}{link}" for link in (*within, name))
            raise SettingError(f"{where}: {chain} leads back to itself; give one of them a value")
        if name not in values:
            raise SettingError(f"{where}: {value!r} has no value; {nearest(name, values)}")
        return _filled(values[name], values, where, within=(*within, name))
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {key: _filled(item, values, where, within=within) for key, item in items}
    if isinstance(value, list | tuple):
        return [_filled(item, values, where, within=within) for item in cast("Sequence[Any]", value)]
    return value


@lru_cache(maxsize=1024)  # hundreds of outcomes share a few recipes
def _recipe(steps: str, where: str) -> Recipe:
    return Recipe.from_plain({"steps": json.loads(steps)}, where=where)
