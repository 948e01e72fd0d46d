"""This file finds and makes the environment of LiteRT's converter, whose pinned packages cannot live beside dwindle's.

Looked for in this order: this interpreter's own packages, `DWINDLE_LITERT_PYTHON`, the user's data folder.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Final

from dwindle.errors import ExportError

VARIABLE: Final = "DWINDLE_LITERT_PYTHON"
INSTALL: Final = "dwindle doctor --install litert"
CONVERTER: Final = "litert-torch>=0.10,<0.11"
IMPORT: Final = "import litert_torch"
_PYTHON: Final = "Scripts/python.exe" if os.name == "nt" else "bin/python"
_MINUTES: Final = 30


def converter_python() -> Path | None:
    """Return the Python that can import LiteRT's converter; None if there is none.

    Raises:
        ExportError: `DWINDLE_LITERT_PYTHON` names no file.
    """
    if importlib.util.find_spec("litert_torch") is not None:
        return Path(sys.executable)
    if named := os.environ.get(VARIABLE):
        if not Path(named).is_file():
            raise ExportError(f"{VARIABLE} names {named}, which is no file; name a Python with litert-torch")
        return Path(named)
    return own_python() if _is_ready() and own_python().is_file() else None


def _is_ready() -> bool:
    """Return whether our environment was finished with the torch that runs here, whose programs it reads."""
    try:
        return (own_folder() / "ready").read_text(encoding="utf-8") == _contents()
    except (OSError, UnicodeDecodeError):
        return False


def _contents() -> str:
    return f"{_torch()} {CONVERTER}\n"


def _torch() -> str:
    return f"torch=={version('torch').partition('+')[0]}"


def own_folder() -> Path:
    """Return the folder that `install_converter` fills."""
    import platformdirs

    return Path(platformdirs.user_data_dir("dwindle")) / "litert"


def own_python() -> Path:
    """Return the Python in that folder."""
    return own_folder() / _PYTHON


def working_converter() -> Path | None:
    """Return the Python that does import LiteRT's converter; None if there is none, or ours is broken.

    Raises:
        ExportError: `DWINDLE_LITERT_PYTHON` names no file, or a Python that has no converter.
    """
    python = converter_python()
    if python is None:
        return None
    try:
        _run(str(python), "-c", IMPORT)
    except ExportError as error:
        if python == own_python():
            return None
        raise ExportError(f"{python} cannot import the converter ({error}); mend it, or unset {VARIABLE}") from error
    return python


def install_converter() -> Path:
    """Make an environment with LiteRT's converter and the torch that runs here, and return its Python.

    It is made beside its place and moved there when it is whole, so an earlier one serves meanwhile.

    Raises:
        ExportError: pip failed, and its last words are in the message; or another process makes one.
    """
    place = own_folder()
    made = place.with_name(f"{place.name}.new")
    try:
        made.mkdir(parents=True)
    except FileExistsError as error:
        raise ExportError(
            f"{made} is there: another installation is at work; wait for it, or remove the folder where there is none"
        ) from error
    except OSError as error:
        raise ExportError(f"{made} cannot be made ({error.strerror}); free disk space, or mend its rights") from error
    try:
        python = str(made / _PYTHON)
        _run(sys.executable, "-m", "venv", str(made))
        _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", _torch(), CONVERTER)
        _run(python, "-c", IMPORT)
        (made / "ready").write_text(_contents(), encoding="utf-8")
        _put(made, place)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return own_python()


def _put(made: Path, place: Path) -> None:
    """Move a finished environment to its place; Python finds its packages from where it lies."""
    earlier = place.with_name(f"{place.name}.old")
    shutil.rmtree(earlier, ignore_errors=True)
    try:
        if place.exists():
            place.rename(earlier)
        made.rename(place)
    except OSError as error:
        raise ExportError(f"{made} cannot be moved to {place} ({error.strerror}); remove {place}") from error
    shutil.rmtree(earlier, ignore_errors=True)


def _run(*command: str) -> None:
    # Constraints of the calling environment are what its pins cannot live with.
    environment = {key: value for key, value in os.environ.items() if key not in {"PIP_CONSTRAINT", "PYTHONPATH"}}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60 * _MINUTES, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"{' '.join(command[1:4])} failed: {error}; free disk space and try again") from error
    if done.returncode:
        told = "; ".join(done.stderr.strip().splitlines()[-3:])
        raise ExportError(f"{' '.join(command[1:4])} failed ({done.returncode}): {told}")
