"""This file names a piece of somebody's code so that the name changes when the code does."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Iterable
from typing import Any, cast

from torch import nn

Plain = bool | int | float | str | None


def identify(function: Any) -> str:
    """Return the qualified name of a function or callable object, a hash of its source, and the settings it holds.

    Settings are plain numbers and words: the arguments of a `functools.partial`, the variables that a function made by
    another one sees, the attributes of an object, and of dataclasses among them theirs. What it calls in turn is not
    looked at.

    >>> identify(None)
    ''
    >>> identify(functools.partial(round, ndigits=2)) != identify(functools.partial(round, ndigits=3))
    True
    """
    if function is None:
        return ""
    if isinstance(function, functools.partial):
        bound = cast("functools.partial[Any]", function)
        return f"{identify(bound.func)}({_settings(enumerate(bound.args))}{_settings(bound.keywords.items())})"
    target = function if hasattr(function, "__qualname__") else type(function)
    held = _closure(function) if target is function else _attributes(function)
    return f"{target.__qualname__}{_source(target)}[{_settings(held)}]"


def code_of(network: nn.Module) -> str:
    """Return a hash of the source of every module class of `network` that is not torch's own.

    Functions that these classes call are not looked at; classes whose source is not at hand count by their names.
    """
    classes = {type(module) for module in network.modules()}
    own = sorted(
        f"{c.__module__}.{c.__qualname__}{_source(c)}" for c in classes if c.__module__.split(".")[0] != "torch"
    )
    return hashlib.sha256("\n".join(own).encode()).hexdigest()[:16]


def _source(target: Any) -> str:
    try:
        source = inspect.getsource(target)
    except (OSError, TypeError):  # built in, or typed into a console
        return ""
    return "#" + hashlib.sha256(source.encode()).hexdigest()[:8]


def _closure(function: Any) -> Iterable[tuple[Any, Any]]:
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None)
    if code is None or cells is None:
        return ()
    return tuple(zip(code.co_freevars, (_content(cell) for cell in cells), strict=True))


def _attributes(held: Any) -> Iterable[tuple[Any, Any]]:
    """Return the attributes of an object; a dataclass with slots has no `__dict__`, but fields."""
    if dataclasses.is_dataclass(held):
        return tuple((field.name, getattr(held, field.name)) for field in dataclasses.fields(held))
    return getattr(held, "__dict__", {}).items()


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _settings(items: Iterable[tuple[Any, Any]]) -> str:
    return ",".join(f"{name}={words}" for name, value in items if (words := _words(value)) is not None)


def _words(value: Any) -> str | None:
    """Return a setting as text; None for what is no setting, such as a tensor."""
    if isinstance(value, Plain):
        return repr(value)
    if isinstance(value, tuple):
        words = [_words(item) for item in cast("tuple[Any, ...]", value)]
        return None if None in words else f"({','.join(map(str, words))})"
    return identify(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else None
