"""This file imports the package of an engine, which may be installed and yet be broken."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

from dwindle.errors import RuntimeUnavailableError


def engine_package(name: str, *, extra: str) -> Any:
    """Return the module called `name`.

    Raises:
        RuntimeUnavailableError: it cannot be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a package says of itself while it is imported
            return import_module(name)
    except (ImportError, OSError) as error:  # OSError: a library that it needs is missing
        raise RuntimeUnavailableError(
            f"the package {name} cannot be imported ({error}): pip install --force-reinstall 'dwindle[{extra}]'"
        ) from error
