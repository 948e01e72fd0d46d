"""This file finds which networks of the context a step names: students, and teachers of an ensemble."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from dwindle.settings import to_plain
from dwindle.technique import Technique


def named_by(step: Technique) -> tuple[str, ...]:
    """Return the names of the context's networks that `step` uses."""
    return named_in(to_plain(step))


def named_in(step: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the same for a step as it stands in a recipe.

    >>> named_in({"type": "Distill", "student": "small", "distillation": {"teachers": ["a", "b"]}})
    ('small', 'a', 'b')
    """
    distillation: Any = step.get("distillation")
    teachers = cast("Mapping[str, Any]", distillation).get("teachers") if isinstance(distillation, Mapping) else None
    listed: list[Any] = [step.get("student"), *(cast("list[Any]", teachers) if isinstance(teachers, list) else [])]
    return tuple(dict.fromkeys(name for name in listed if isinstance(name, str)))
