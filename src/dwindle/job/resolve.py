"""This file finds the functions that a job.toml names, in the user's files or in an installed package."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from dwindle.errors import DwindleError, SettingError
from dwindle.settings import nearest

_Function = TypeVar("_Function", bound=Callable[..., Any])
_IMPORTS: Final = threading.RLock()
"""A file has its name among the modules before it is imported to its end; another thread must wait for that."""


def resolve(reference: str, folder: Path, *, where: str) -> Callable[..., Any]:
    """Return the function that `file.py:function` or `package.module:function` names; files are relative to `folder`.

    Raises:
        SettingError: the reference has another form, or there is no such file, module or function.
    """
    module_name, colon, function_name = reference.rpartition(":")
    if not colon or not module_name or not function_name.isidentifier():
        raise SettingError(f"{where} = {reference!r}: write it as path/to/file.py:function")
    module = (
        _import_file(module_name, folder, where) if module_name.endswith(".py") else _import_module(module_name, where)
    )
    function = getattr(module, function_name, None)
    if not callable(function):
        known = sorted(name for name, value in vars(module).items() if callable(value) and not name.startswith("_"))
        raise SettingError(f"{where} = {reference!r}: {module_name} has no function {function_name!r}; it has {known}")
    return function


def resolve_known(name: Any, known: Mapping[str, _Function], folder: Path, *, where: str) -> _Function:
    """Return what is `known` by this name, or the function that `name` refers to, as `resolve` reads it.

    Raises:
        SettingError: it is neither.
    """
    if isinstance(name, str) and ":" in name:
        return cast("_Function", resolve(name, folder, where=where))
    if not isinstance(name, str) or name not in known:
        raise SettingError(f"{where} = {name!r}: {nearest(str(name), known)}; or name your own as file.py:function")
    return known[name]


def _import_file(name_of_file: str, folder: Path, where: str) -> Any:
    """Import a file once, as Python would if it were started from its folder: its neighbours can be imported, too."""
    path = (folder / name_of_file).resolve()
    if not path.is_file():
        raise SettingError(f"{where}: there is no file {path}; give its path from {folder.resolve()}")
    name = f"dwindle_job_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    with _IMPORTS:
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise SettingError(f"{where}: {path} cannot be imported as Python")
        module = importlib.util.module_from_spec(spec)
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # a user's own code
            del sys.modules[name]
            raise SettingError(f"{where}: {path} cannot be imported: {_words(error)}") from error
        return module


def _import_module(name: str, where: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SettingError(f"{where}: module {name!r} cannot be imported ({error})") from error


def call_with(function: Callable[..., Any], arguments: Mapping[str, Any], *, where: str) -> Any:
    """Return what `function` gives for `arguments`.

    Raises:
        SettingError: it does not take these arguments, or raises what is no error of ours.
    """
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise SettingError(f"{where}.arguments = {dict(arguments)}: {error}") from error
    try:
        return function(**arguments)
    except DwindleError:
        raise
    except Exception as error:  # a user's own code
        name = getattr(function, "__name__", type(function).__name__)
        raise SettingError(f"{where}: {name} failed with arguments {dict(arguments)}: {_words(error)}") from error


def _words(error: Exception) -> str:
    """Return what went wrong and where: the user's line is what is to be mended."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
