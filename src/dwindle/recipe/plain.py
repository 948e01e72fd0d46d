"""This file turns steps into words and plain tables, and tables back into steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from dwindle.errors import SettingError
from dwindle.settings import TAG, default_of, from_plain, nearest, to_plain
from dwindle.technique import Technique


def describe_step(step: Technique) -> str:
    """Return `step` in one line: its numbers, and every other setting that differs from the default."""
    shown = [
        f"{field.name}={value!r}"
        for field in dataclasses.fields(cast("Any", step))
        if _is_number(value := getattr(step, field.name)) or value != default_of(field)
    ]
    return f"{type(step).__name__}({', '.join(shown)})"


def step_to_plain(step: Technique) -> dict[str, Any]:
    """Return `step` as a table with its `type`; nested settings that are the default are left out."""
    plain: dict[str, Any] = to_plain(step)
    for field in dataclasses.fields(cast("Any", step)):
        value = getattr(step, field.name)
        if dataclasses.is_dataclass(value) and value == default_of(field):
            del plain[field.name]
    return plain


def step_from_plain(table: Any, *, where: str, techniques: Mapping[str, type[Technique]]) -> Technique:
    """Build a step from its table; `where` names the place in messages.

    Raises:
        SettingError: not a table, no or an unknown `type`, or settings that do not fit it.
    """
    if not isinstance(table, Mapping):
        raise SettingError(f"{where}: a step is a table like {{type = 'Cluster', codebook_size = 16}}, got {table!r}")
    settings = cast("Mapping[str, Any]", table)
    name = settings.get(TAG)
    if name is None:
        raise SettingError(f"{where}: say which technique with {TAG} = one of {', '.join(sorted(techniques))}")
    if name not in techniques:
        raise SettingError(f"{where}: unknown technique {name!r}; {nearest(str(name), techniques)}")
    return from_plain(techniques[name], settings, where=where)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
