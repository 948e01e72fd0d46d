"""This file looks for the package of an engine and imports it: it may be installed and yet be broken."""

from __future__ import annotations

import importlib.util
import warnings
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any

from dwindle.errors import RuntimeUnavailableError
from dwindle.runtimes.chatter import caught_chatter


def version_of(module: str, *, distribution: str) -> str:
    """Return the version of an engine as it stands in a measurement: `1.31.1`, or `not installed`.

    Some engines come under several names (onnxruntime-gpu, ai-edge-litert-nightly); `distribution` is tried first.
    """
    if importlib.util.find_spec(module) is None:
        return "not installed"
    try:
        return version(distribution)
    except PackageNotFoundError:
        others = packages_distributions().get(module, ())
        return version(others[0]) if others else "of unknown version"


def engine_package(name: str, *, extra: str) -> Any:
    """Return the module called `name`.

    Raises:
        RuntimeUnavailableError: it cannot be imported.
    """
    try:
        with warnings.catch_warnings(), caught_chatter():  # what a package says of itself while it is imported
            warnings.simplefilter("ignore")
            return import_module(name)
    except Exception as error:  # a broken build fails in many ways
        raise RuntimeUnavailableError(
            f"the package {name} cannot be imported ({error}): pip install --force-reinstall 'dwindle[{extra}]'"
        ) from error
