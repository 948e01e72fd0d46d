"""This file holds the recipe: check, run, replay, to and from TOML."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self, cast

import tomli_w
from torch import nn

from dwindle.errors import RecipeError, SettingError
from dwindle.network.compressed import CompressedModel, Record, RemovedChannels, Replaced
from dwindle.recipe.cache import StageCache
from dwindle.recipe.catalogue import TECHNIQUES
from dwindle.recipe.check import find_problems, traits_of
from dwindle.recipe.named import answer_problems
from dwindle.recipe.plain import describe_step, step_from_plain, step_to_plain
from dwindle.recipe.significant import SKIPPED, Choices, Settled, explained, skipped
from dwindle.settings import TAG, nearest, toml_table
from dwindle.technique import Context, Needs, Technique, Trait

Techniques = Mapping[str, type[Technique]]
QUANTIZED: Final = Trait.INTEGER | Trait.QUANTIZED_ACTIVATIONS
"""What tells that a model's weights are no longer those of its float network."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """A finished step: which, what came out, how long it took, and whether it came from the cache."""

    number: int
    n_steps: int
    model: CompressedModel
    seconds: float
    was_cached: bool

    @property
    def record(self) -> Record:
        """The step as it stands in the history."""
        return self.model.history[-1]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Techniques in order. `check` costs nothing and reports all problems; `run` may cost hours.

    Raises:
        SettingError: something among `steps` is not a technique.
    """

    steps: tuple[Technique, ...]

    def __post_init__(self) -> None:
        given: Any = self.steps
        if not isinstance(given, Sequence):
            raise SettingError(f"Recipe: steps must be a sequence of techniques, got {given!r}; write Recipe((step,))")
        for number, step in enumerate(cast("Sequence[Any]", given), start=1):
            if isinstance(step, type) or not all(hasattr(step, name) for name in ("needs", "effect", "apply")):
                raise SettingError(f"Recipe: step {number} is {step!r}, not a technique like Cluster(codebook_size=16)")
        object.__setattr__(self, "steps", tuple(cast("Sequence[Technique]", given)))

    def check(
        self, context: Context, traits: Trait = Trait.NOTHING, *, model: CompressedModel | None = None
    ) -> list[str]:
        """Return all problems; empty where the recipe can run.

        Args:
            context: what its steps will be offered.
            traits: what the model will be before the first step.
            model: the model, where it is at hand: selections are then resolved on it, and traits read from it.
        """
        known = traits if model is None else traits | traits_of(model)
        offers = context.offers if known & QUANTIZED else context.offers | Needs.REFERENCE
        problems = find_problems(self.steps, offers, traits, model=model, networks=context.networks)
        if problems or model is None or context.example is None:
            return problems
        return answer_problems(self.steps, context, model.network)

    def run(
        self, model: CompressedModel, context: Context, *, on_stage: Callable[[Stage], None] | None = None
    ) -> CompressedModel:
        """Return `model` after all steps; with a `workdir` in the context a killed run goes on where it was.

        Args:
            model: stays untouched.
            context: data, trainer, seed.
            on_stage: called after each step.

        Raises:
            RecipeError: `check` found problems, all of which are listed, or a step kept no record.
            DwindleError: whatever a step raises, with a note that says which step.
        """
        if problems := self.check(context, model=model):
            raise RecipeError(_listed(problems))
        cache = StageCache(context.workdir / "stages") if context.workdir is not None else None
        n_steps = len(self.steps)
        reference = _reference(model, model, None)
        choices = Choices(model.network, context)
        for number, step in enumerate(self.steps, start=1):
            _report(context, describe_step(step), done=number - 1, total=n_steps)
            started = time.monotonic()
            before = model
            try:
                settled = choices.settle(step)
                model, was_cached = _apply(settled, before, _with_reference(context, reference), cache=cache)
            except Exception as error:
                error.add_note(f"in step {number} of {n_steps}: {describe_step(step)}")
                raise
            reference = _reference(before, model, reference)
            if on_stage is not None:
                seconds = time.monotonic() - started
                on_stage(Stage(number=number, n_steps=n_steps, model=model, seconds=seconds, was_cached=was_cached))
        _report(context, "recipe", done=n_steps, total=n_steps)
        return model

    @staticmethod
    def replay(
        history: Sequence[Record], model: CompressedModel, context: Context, *, techniques: Techniques = TECHNIQUES
    ) -> CompressedModel:
        """Rebuild what `history` recorded from `model`, the model before its first step, and compare every digest.

        Args:
            history: records in order.
            model: stays untouched.
            context: data and trainer as they were; the seeds are taken from the records, and no cache is read.
            techniques: classes by name; add your own to `TECHNIQUES`.

        Raises:
            RecipeError: a step gives other weights than those recorded.
            SettingError: a record names an unknown technique or setting.
        """
        reference = _reference(model, model, None)
        for number, record in enumerate(history, start=1):
            where = f"step {number} of {len(history)}"
            if SKIPPED in record.decisions:
                model = replace(model, history=(*model.history, record))
                continue
            step = step_from_plain({TAG: record.technique, **record.settings}, where=where, techniques=techniques)
            before = model
            offered = replace(_with_reference(context, reference), seed=record.seed, workdir=None)
            model = Recipe((step,)).run(before, offered)
            reference = _reference(before, model, reference)
            if (digest := model.digest()) != record.digest:
                raise RecipeError(
                    f"{where}, {describe_step(step)}, replayed to digest {digest}, but the record of version "
                    f"{record.version} says {record.digest}; use the data, package versions and machine of the record"
                )
        return model

    def to_plain(self) -> dict[str, Any]:
        """Return the recipe as a table: `{"steps": [{"type": ..., ...}, ...]}`."""
        return {"steps": [step_to_plain(step) for step in self.steps]}

    @classmethod
    def from_plain(
        cls, plain: Mapping[str, Any], *, where: str = "recipe", techniques: Techniques = TECHNIQUES
    ) -> Self:
        """Build a recipe from a table; `where` names the place in messages.

        Raises:
            SettingError: an unknown key or technique (the nearest known one is named), or a value that does not fit.
        """
        for key in plain:
            if key not in {"steps", TAG}:
                raise SettingError(f"{where}: unknown key {key!r}; {nearest(key, ['steps'])}")
        steps = plain.get("steps")
        if not isinstance(steps, list | tuple):
            raise SettingError(f"{where}: write each step as a table [[steps]], got steps = {steps!r}")
        tables = enumerate(cast("Sequence[Any]", steps), start=1)
        return cls(tuple(step_from_plain(t, where=f"{where}: step {n}", techniques=techniques) for n, t in tables))

    def to_toml(self) -> str:
        """Return the recipe as TOML, which `from_toml` reads."""
        return tomli_w.dumps(self.to_plain())

    @classmethod
    def from_toml(cls, text: str, *, techniques: Techniques = TECHNIQUES) -> Self:
        """Read a recipe from TOML.

        Raises:
            SettingError: not TOML, an unknown key or technique, or a value that does not fit.
        """
        return cls.from_plain(toml_table(text, where="the recipe"), techniques=techniques)


def _apply(
    settled: Settled, model: CompressedModel, context: Context, *, cache: StageCache | None
) -> tuple[CompressedModel, bool]:
    """Return the outcome of a step and whether it came from the cache."""
    if settled.is_idle:
        return explained(skipped(settled, model, context), settled.judged), False
    step = settled.step
    key = cache.key(step, model, context) if cache is not None else ""
    if cache is not None and (stored := cache.load(key, model, networks=context.networks)) is not None:
        return explained(stored, settled.judged), True
    after = step.apply(model, context)
    if len(after.history) != len(model.history) + 1:
        raise RecipeError(
            f"{type(step).__name__}.apply kept no record of itself; end it with `return recorded(self, model, context)`"
        )
    if cache is not None:
        cache.store(key, after)
    return explained(after, settled.judged), False


def _with_reference(context: Context, reference: nn.Module | None) -> Context:
    return replace(context, reference=reference) if context.reference is None else context


def _reference(before: CompressedModel, after: CompressedModel, earlier: nn.Module | None) -> nn.Module | None:
    """Return the float network for what follows a step: the one before it where the step was the first to quantize.

    The network given stands in until then, or the one that took its place or lost channels; None where that is
    quantized itself, because its floats are gone.
    """
    if any(isinstance(edit, Replaced | RemovedChannels) for edit in after.edits[len(before.edits) :]):
        return None if traits_of(after) & QUANTIZED else after.network
    if traits_of(before) & QUANTIZED:
        return earlier
    return before.network if earlier is None or traits_of(after) & QUANTIZED else earlier


def _report(context: Context, what: str, *, done: int, total: int) -> None:
    if context.report_progress is not None:
        context.report_progress(what, done, total)


def _listed(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} problems:\n" + "\n".join(f"- {problem}" for problem in problems)
