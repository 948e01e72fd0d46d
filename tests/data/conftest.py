"""This file keeps the tests of data from this machine's own data sets, except where a test asks for the real ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dwindle.data import locate as module
from dwindle.errors import DataError

DATA = os.environ.get("DWINDLE_DATA")


@pytest.fixture
def nowhere(tmp_path, monkeypatch) -> Path:
    """Let no folder of this machine hold data; return the folder that stands for the user's caches."""
    monkeypatch.delenv("DWINDLE_DATA", raising=False)
    monkeypatch.setattr(module, "SYSTEM_FOLDERS", (tmp_path / "system",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "dwindle"


@pytest.fixture(scope="session")
def real() -> Callable[[Callable], object]:
    """Return `load(loader)`, which calls it where the real data set is on this machine and skips where it is not."""

    def load(loader):
        with pytest.MonkeyPatch.context() as patch:
            if DATA:
                patch.setenv("DWINDLE_DATA", DATA)
            for module_name in ("download", "uci_har_files"):
                patch.setattr(
                    f"dwindle.data.{module_name}.download", lambda *_, **__: pytest.skip("not on this machine")
                )
            try:
                return loader()
            except DataError as error:
                if "nor elsewhere on this machine" in str(error):
                    pytest.skip(str(error))
                raise

    return load
