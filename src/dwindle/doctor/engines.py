"""This file looks which engines run files here, whether their files can be written, and how to install the rest."""

from __future__ import annotations

from typing import Final

from dwindle.doctor.finding import Finding, fine, warning
from dwindle.errors import ExportError
from dwindle.exporters.litert_environment import INSTALL, converter_python
from dwindle.runtimes.catalogue import RUNTIMES

FORMATS: Final = {"onnxruntime": ".onnx and .dwn", "litert": ".tflite", "executorch": ".pte", "openvino": ".xml"}


def check_engines() -> list[Finding]:
    """Return a finding for each engine, and one for LiteRT's converter; an absent one is nothing to worry about."""
    found: list[Finding] = []
    for name, make in RUNTIMES.items():
        engine = make()
        reason = engine.unavailable()
        files = FORMATS.get(name, ", ".join(engine.formats))
        found.append(fine(f"engine {name}", f"{engine.name} runs {files}" if reason is None else f"absent: {reason}"))
    found.append(_converter())
    return found


def _converter() -> Finding:
    subject = "LiteRT converter"
    try:
        python = converter_python()
    except ExportError as error:
        return warning(subject, str(error), INSTALL)
    if python is None:
        return fine(subject, f"absent, so no .tflite can be written: {INSTALL}")
    return fine(subject, f"writes .tflite files ({python})")
