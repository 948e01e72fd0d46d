"""This file writes numbers and settings the way people read them; it rounds, and never invents.

1 KB is 1,000 bytes throughout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

_SUPERSCRIPTS: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MINUS: Final = "\N{MINUS SIGN}"
DASH: Final = "\N{EN DASH}"
"""Stands in a table where the ledger has nothing."""
NO_BREAK: Final = "\N{NO-BREAK SPACE}"
_LONGEST_UNIT: Final = 12
_TIMES: Final = "\N{MULTIPLICATION SIGN}"


def human_bytes(n_bytes: float) -> str:
    """Return a size in the unit that people would choose.

    >>> human_bytes(999), human_bytes(44_800_040), human_bytes(1_204)
    ('999 bytes', '44.8 MB', '1.20 KB')
    """
    if n_bytes < 1_000:
        return f"{n_bytes:,.0f} byte{'' if n_bytes == 1 else 's'}"
    power = next(p for p in (1, 2, 3, 4) if n_bytes < 999.5 * 1_000**p or p == 4)
    return f"{significant(n_bytes / 1_000**power)} {('KB', 'MB', 'GB', 'TB')[power - 1]}"


def significant(value: float, n_digits: int = 3) -> str:
    """Return `value` with `n_digits` significant digits, separators for thousands, and powers of ten far from one.

    >>> significant(37.24), significant(12345.6), significant(0.05, 2)
    ('37.2', '12,346', '0.050')
    """
    if value == 0:
        return "0"
    exponent = int(f"{value:.{n_digits - 1}e}".partition("e")[2])  # of the rounded value: 0.9996 is 1.00
    if exponent < -4 or exponent > 11:
        mantissa = f"{value / 10.0**exponent:.{n_digits - 1}f}"
        return f"{mantissa} {_TIMES} 10{str(exponent).translate(_SUPERSCRIPTS)}".replace("-", MINUS)
    return fixed(value, max(0, n_digits - 1 - exponent))


def fixed(value: float, n_decimals: int) -> str:
    """Return `value` with `n_decimals` decimals, separators for thousands, and a real minus sign.

    >>> fixed(1234.5, 1), fixed(-0.001, 2)
    ('1,234.5', '0.00')
    """
    written = f"{value:,.{n_decimals}f}"
    return written.removeprefix("-") if not written.strip("-0.,") else written.replace("-", MINUS)


def plain_number(value: float) -> str:
    """Return a setting's or decision's number: whole ones exactly, others to six digits.

    >>> plain_number(10_000), plain_number(0.9), plain_number(1 / 3)
    ('10,000', '0.9', '0.333333')
    """
    if not math.isfinite(value):
        return "not a finite number"
    is_whole = isinstance(value, int) or (value.is_integer() and abs(value) < 1e15)
    return (f"{value:,.0f}" if is_whole else f"{value:,.6g}").replace("-", MINUS)


def duration(seconds: float) -> str:
    """Return a duration.

    >>> duration(0.25), duration(75), duration(7_300)
    ('0.250 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{significant(seconds)} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def metric_value(value: float, unit: str) -> str:
    """Return a measured value with its unit.

    >>> metric_value(0.9321, "fraction"), metric_value(12.345, "ms"), metric_value(0.21, "points")
    ('93.21 %', '12.3 ms', '0.21 points')
    """
    match unit:
        case "bytes":
            return human_bytes(value)
        case "x":
            return f"{significant(value)}{_TIMES}"
        case "fraction" | "points":
            return f"{bare_value(value, unit)} {'%' if unit == 'fraction' else 'points'}"
        case _:
            return f"{significant(value)} {unit}" if shows_unit(unit) else significant(value)


def shows_unit(unit: str) -> bool:
    """Return whether a value is written with its unit: a symbol such as mm, not a phrase, which the label holds.

    >>> shows_unit("examples/s"), shows_unit("max absolute difference"), shows_unit("")
    (True, False, False)
    """
    return bool(unit) and " " not in unit and len(unit) <= _LONGEST_UNIT


def bare_value(value: float, unit: str) -> str:
    """Return a measured value without its unit, for the ends of an interval.

    >>> bare_value(0.9321, "fraction"), bare_value(0.05, "points")
    ('93.21', '0.05')
    """
    match unit:
        case "fraction":
            return fixed(100 * value, 2)
        case "points":
            return fixed(value, 2)
        case _:
            return significant(value)


def as_name(value: Any) -> str:
    """Return a seed, a version, a name: text as it is, whole numbers without separators.

    >>> as_name(20261122), as_name("v1"), as_name([1, 2])
    ('20261122', 'v1', '1, 2')
    """
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) else settings(value)


def shortened(name: str, n_characters: int) -> str:
    """Return a name cut in its middle: the ends of layer names tell them apart.

    >>> shortened("backbone.layers.7.attention.weight", 22)
    'backbon...ntion.weight'
    """
    if len(name) <= n_characters:
        return name
    n_head = (n_characters - 3) // 3 + 1
    return f"{name[:n_head]}...{name[n_head + 3 - n_characters :]}"


def shape_words(shape: Any) -> str:
    """Return a shape's numbers with multiplication signs; empty where it is not a list."""
    return f" {_TIMES} ".join(map(as_name, cast("Iterable[Any]", shape))) if isinstance(shape, list | tuple) else ""


def settings(value: Any, *, depth: int = 0) -> str:
    """Return plain JSON settings in one line; empty ones are left out.

    >>> settings({"sparsity": 0.9, "schedule": {"type": "Polynomial", "power": 3}, "stable": True})
    'sparsity 0.9, schedule Polynomial (power 3), stable yes'
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return plain_number(value)
    if isinstance(value, Mapping):
        mapping = cast("Mapping[str, Any]", value)
        said = {key: item for key, item in mapping.items() if key != "type" and not _says_nothing(item)}
        inner = ", ".join(f"{key} {settings(item, depth=depth + 1)}" for key, item in said.items())
        name = str(mapping.get("type", ""))
        wrapped = f"({inner})" if inner and depth else inner
        return " ".join(part for part in (name, wrapped) if part) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(settings(item, depth=depth + 1) for item in cast("Iterable[Any]", value)) or "none"
    return "none" if value is None else str(value)


def _says_nothing(value: Any) -> bool:
    """Empty lists, and settings of which every one is empty, such as a selection that selects everything."""
    if isinstance(value, Mapping):
        fields = [item for key, item in cast("Mapping[str, Any]", value).items() if key != "type"]
        return ("type" not in value or bool(fields)) and all(map(_says_nothing, fields))
    return value is None or (isinstance(value, list | tuple) and not value)
