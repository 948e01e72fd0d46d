"""This file refuses settings that count something and are no whole numbers, or too small."""

from __future__ import annotations

from typing import Any

from dwindle.errors import SettingError


def require_counts(settings: Any, **least: int) -> None:
    """Refuse `settings` unless each of its fields named in `least` is a whole number, at least that one.

    Raises:
        SettingError: one is not.
    """
    for name, smallest in least.items():
        value = getattr(settings, name)
        if type(value) is not int or value < smallest:
            who = type(settings).__name__
            raise SettingError(f"{who}: {name} must be at least {smallest}, a whole number, got {value!r}")
