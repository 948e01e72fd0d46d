"""This file draws settings at random from a space (Bergstra & Bengio, 2012); the one place that knows Optuna.

The draw with one number is the same whoever makes it and whatever was drawn before, so a search goes on where it was
killed, and several processes share one.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from dwindle.errors import RuntimeUnavailableError, SettingError

RANGE_KEYS = frozenset({"low", "high", "step"})


def draw(space: Mapping[str, Any], *, seed: int, number: int) -> dict[str, Any]:
    """Return a value for each name in `space`.

    Args:
        space: name -> the values to choose from, or a table of whole numbers `low`, `high` and `step`, ends included.
        seed: of the search.
        number: of the draw.

    Raises:
        RuntimeUnavailableError: Optuna is not installed.
        SettingError: an entry of `space` is neither.
    """
    for name, values in space.items():
        if problem := space_problem(values):
            raise SettingError(f"search.space.{name}: {problem}")
    trial = _ask(int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big"))
    return {name: _suggest(trial, name, values) for name, values in space.items()}


def space_problem(values: Any) -> str:
    """Return what is wrong with an entry of a space; nothing where it is fine.

    >>> space_problem([3, 5]), space_problem({"low": 16, "high": 128, "step": 16})
    ('', '')
    """
    if isinstance(values, Mapping):
        table = cast("Mapping[str, Any]", values)
        if set(table) - RANGE_KEYS or not {"low", "high"} <= set(table) or not all(map(_is_whole, table.values())):
            return f"a range has whole numbers low, high and step, got {dict(table)}"
        if table["low"] > table["high"] or table.get("step", 1) < 1:
            return f"a range goes up from low to high by a step of at least 1, got {dict(table)}"
        return ""
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        return f"give a list of at least one value, or a table of low, high and step, got {values!r}"
    if not all(isinstance(value, str | int | float) for value in cast("Sequence[Any]", values)):
        return f"values to choose from are texts and numbers, got {values!r}"
    return ""


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _ask(seed: int) -> Any:
    try:
        library: Any = importlib.import_module("optuna")
    except ImportError as error:
        raise RuntimeUnavailableError(
            "a random search draws with Optuna, which is not installed; pip install 'dwindle[search]'"
        ) from error
    level = library.logging.get_verbosity()
    library.logging.set_verbosity(library.logging.WARNING)  # it announces every study that it makes
    try:
        return library.create_study(sampler=library.samplers.RandomSampler(seed=seed)).ask()
    finally:
        library.logging.set_verbosity(level)


def _suggest(trial: Any, name: str, values: Any) -> Any:
    if isinstance(values, Mapping):
        table = cast("Mapping[str, int]", values)
        return trial.suggest_int(name, table["low"], table["high"], step=table.get("step", 1))
    return trial.suggest_categorical(name, list(values))
