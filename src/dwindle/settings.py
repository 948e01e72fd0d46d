"""This file turns settings (frozen dataclasses) into plain JSON/TOML values and back; a typo gets the nearest name."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, Union, cast, get_args, get_origin

from dwindle.errors import SettingError

T = TypeVar("T")
TAG: Final = "type"
"""Key that names the class where a field admits several dataclasses."""
NONE: Final = "none"
"""What stands for None where it is not the default."""


def to_plain(value: Any) -> Any:
    """Return `value` as plain JSON values; a dataclass becomes a mapping of its fields.

    A `type` key names the class of a dataclass. TOML has no null: a field that is None is left out where that is its
    default, and written as "none" where it is not.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((f, getattr(value, f.name)) for f in dataclasses.fields(value))
        kept = ((f, v) for f, v in pairs if v is not None or default_of(f) is not None)
        plain = {f.name: NONE if v is None else to_plain(v) for f, v in kept}
        return {TAG: type(value).__name__, **plain}
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in cast("Iterable[Any]", value)]
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, Path):
        return str(value)
    return value


def toml_table(text: str, *, where: str) -> dict[str, Any]:
    """Return the table that `text` is in TOML; `where` names the place in messages.

    Raises:
        SettingError: it is not TOML, or nests or counts beyond what can be read.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is no TOMLDecodeError
        raise SettingError(f"{where} is not TOML: {error}") from error


def from_plain(cls: type[T], plain: Mapping[str, Any], *, where: str) -> T:
    """Build the dataclass `cls` from plain values; `where` names the place in messages.

    Raises:
        SettingError: an unknown key (the nearest known one is named), a missing key, or a value of the wrong type.
    """
    hints = _hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cast("Any", cls)) if f.init}
    given = {key: value for key, value in plain.items() if key != TAG}
    for key in given:
        if key not in fields:
            raise SettingError(f"{where}: unknown key {key!r}; {nearest(key, fields)}")
    required = [
        n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in given]:
        raise SettingError(f"{where}: {cls.__name__} needs {', '.join(missing)}")
    values = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in given.items()}
    try:
        return cls(**values)
    except SettingError as error:
        raise SettingError(f"{where}: {error}") from error


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return the default of a field; `dataclasses.MISSING` where it has none."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean" words for a misspelled `name`; where nothing is like it, what there is."""
    if not (options := sorted(known)):
        return "none is known here"
    starts = [option for option in options if name and (option.startswith(name) or name.startswith(option))]
    close = difflib.get_close_matches(name, options, n=1) or starts
    every = f"known: {', '.join(options)}"
    return f"the nearest known one is {close[0]!r} ({every})" if close else every


def require_kinds(settings: Any) -> None:
    """Refuse `settings`, a dataclass, where a number, text, flag or dataclass among its fields is of another kind.

    Whole numbers are numbers; flags are not. Fields of other kinds are left to the class itself.

    Raises:
        SettingError: one is not what its annotation says.
    """
    for name, hint in _hints(type(settings)).items():
        value = getattr(settings, name)
        if not _is_of(hint, value):
            who, kinds = type(settings).__name__, " or ".join(_kinds(hint))
            raise SettingError(f"{who}: {name} must be {kinds}, got {value!r}")


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _is_of(hint: Any, value: Any) -> bool:
    if get_origin(hint) in {Union, types.UnionType}:
        return any(_is_of(option, value) for option in get_args(hint))
    if hint in {int, float}:
        return isinstance(value, int | hint) and not isinstance(value, bool)
    if hint in {bool, str, types.NoneType} or dataclasses.is_dataclass(hint):
        return isinstance(value, cast("type[Any]", hint))
    return True


def _kinds(hint: Any) -> Iterator[str]:
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "text", types.NoneType: "None"}
    for option in get_args(hint) if get_origin(hint) in {Union, types.UnionType} else (hint,):
        yield names.get(option) or f"a {option.__name__}"


def _convert(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) is not None or isinstance(hint, types.UnionType):
        return _convert_generic(hint, value, where)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _convert_dataclass((hint,), value, where)
    if isinstance(hint, type):
        return _convert_class(cast("type[Any]", hint), value, where)
    return value


def _convert_generic(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        return _convert_union(arguments, value, where)
    if origin is tuple:
        return _convert_tuple(arguments, value, where)
    if origin is typing.Literal:
        if not any(type(value) is type(argument) and value == argument for argument in arguments):
            raise SettingError(f"{where}: {value!r} is not one of {', '.join(map(repr, arguments))}")
        return value
    if origin in {Mapping, dict}:
        if not isinstance(value, Mapping):
            raise SettingError(f"{where}: expected a table, got {value!r}")
        return dict(cast("Mapping[str, Any]", value))
    return value


def _convert_class(hint: type[Any], value: Any, where: str) -> Any:
    if issubclass(hint, enum.Enum):
        return _convert_enum(hint, value, where)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise SettingError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def _convert_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise SettingError(f"{where}: expected a list, got {value!r}")
    items = cast("list[Any]", value)
    hints = [arguments[0]] * len(items) if arguments[1:] == (...,) else list(arguments)
    if len(hints) != len(items):
        raise SettingError(f"{where}: expected {len(hints)} values, got {len(items)}")
    return tuple(_convert(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(hints, items, strict=True)))


def _convert_enum(hint: type[enum.Enum], value: Any, where: str) -> enum.Enum:
    by_name = {member.name.lower(): member for member in hint}
    if not isinstance(value, str) or value not in by_name:
        raise SettingError(f"{where}: {value!r} is not one of {', '.join(by_name)}")
    return by_name[value]


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if type(None) in options and (value is None or value == NONE):
        return None
    classes = tuple(option for option in options if dataclasses.is_dataclass(option))
    if classes and isinstance(value, Mapping):
        return _convert_dataclass(classes, value, where)
    problems: list[str] = []
    for option in (o for o in options if o is not type(None) and o not in classes):
        try:
            return _convert(option, value, where)
        except SettingError as error:
            problems.append(str(error))
    names = ", ".join(cast("Any", option).__name__ for option in classes)
    raise SettingError(
        problems[0] if problems else f"{where}: expected a table with type = one of {names}, got {value!r}"
    )


def _convert_dataclass(classes: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise SettingError(f"{where}: expected a table for {' or '.join(c.__name__ for c in classes)}, got {value!r}")
    table = cast("Mapping[str, Any]", value)
    by_name = {c.__name__: c for c in classes}
    name = table.get(TAG, next(iter(by_name)) if len(by_name) == 1 else None)
    if name is None:
        raise SettingError(f"{where}: say which one with type = {' or '.join(map(repr, by_name))}")
    if name not in by_name:
        raise SettingError(f"{where}: unknown type {name!r}; {nearest(str(name), by_name)}")
    return from_plain(by_name[name], table, where=where)
