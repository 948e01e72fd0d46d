"""This file finds and reads studies: those of the package by name, one of your own by its path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, cast

from dwindle.errors import SettingError
from dwindle.settings import from_plain, nearest, toml_table
from dwindle.studies.problems import problems_of
from dwindle.studies.study import Preset, Study


def known_studies() -> tuple[str, ...]:
    """Return the names of the package's studies."""
    files = resources.files("dwindle.studies").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def load_study(name: str | Path) -> Study:
    """Return the study called `name`, or that in the file `name`.

    Raises:
        SettingError: there is none, it is no TOML, or something in it does not fit together.
    """
    text = str(name)
    if text.endswith(".toml"):
        try:
            return read_study(Path(text).read_text(encoding="utf-8"), where=text)
        except OSError as error:
            raise SettingError(f"{text} cannot be read ({error.strerror}); name an existing study") from error
        except UnicodeDecodeError as error:
            raise SettingError(f"{text} is not UTF-8 text ({error.reason}); a study is a TOML file") from error
    if text not in known_studies():
        raise SettingError(f"unknown study {text!r}; {nearest(text, known_studies())}; or name a file.toml of your own")
    return read_study((resources.files("dwindle.studies") / f"{text}.toml").read_text(encoding="utf-8"), where=text)


def read_study(text: str, *, where: str) -> Study:
    """Return the study that `text` describes; `where` names the place in messages.

    Raises:
        SettingError: it is no TOML, or something in it does not fit together.
    """
    study = from_plain(Study, toml_table(text, where=where), where=where)
    presets = {name: _preset(name, plain, where) for name, plain in study.presets.items()}
    study = replace(study, presets=presets)
    for problem in problems_of(study):
        raise SettingError(f"{where}: {problem}")
    return study


def _preset(name: str, plain: Any, where: str) -> Preset:
    if not isinstance(plain, Mapping):
        raise SettingError(f"{where}: presets.{name} must be a table, got {plain!r}")
    return from_plain(Preset, cast("Mapping[str, Any]", plain), where=f"{where}: presets.{name}")
