"""This file looks which engines run files here, whether their files can be written, and how to install the rest."""

from __future__ import annotations

from typing import Final

from dwindle.doctor.finding import Finding, fine, warning
from dwindle.errors import ExportError, RuntimeUnavailableError
from dwindle.exporters.litert_environment import INSTALL, VARIABLE, converter_python
from dwindle.runtimes.catalogue import RUNTIMES
from dwindle.runtimes.package import engine_package

PACKAGES: Final = {
    "litert": ("ai_edge_litert.interpreter",),
    "executorch": ("executorch.extension.pybindings.portable_lib",),
    "openvino": ("openvino",),
}
"""What is imported to see whether an engine works."""


def check_engines() -> list[Finding]:
    """Return a finding for each engine, and one for LiteRT's converter; an absent one is nothing to worry about."""
    found: list[Finding] = []
    for name, make in RUNTIMES.items():
        engine = make()
        reason = engine.unavailable() or _broken(name)
        files = " and ".join(f".{known}" for known in engine.formats)
        found.append(fine(f"engine {name}", f"{engine.name} runs {files}" if reason is None else f"absent: {reason}"))
    found.append(_converter())
    return found


def _broken(name: str) -> str | None:
    """Return why the package of an engine cannot be imported although it is installed; None if it can."""
    try:
        for package in PACKAGES.get(name, ()):
            engine_package(package, extra=name)
    except RuntimeUnavailableError as error:
        return str(error)
    return None


def _converter() -> Finding:
    subject = "LiteRT converter"
    try:
        python = converter_python()
    except ExportError as error:
        return warning(subject, str(error), f"unset {VARIABLE}, then {INSTALL}")
    if python is None:
        return fine(subject, f"absent, so no .tflite can be written: {INSTALL}")
    return fine(subject, f"writes .tflite files ({python})")
