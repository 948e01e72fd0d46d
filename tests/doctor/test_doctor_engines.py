"""This file tests what the doctor says about engines and about LiteRT's converter."""

from __future__ import annotations

from pathlib import Path

import pytest

from dwindle.doctor import engines
from dwindle.doctor.engines import check_engines
from dwindle.doctor.finding import Status
from dwindle.errors import ExportError
from dwindle.exporters.litert_environment import INSTALL, VARIABLE
from dwindle.runtimes.catalogue import RUNTIMES


class Absent:
    name, formats = "quick not installed", ("q",)

    def unavailable(self) -> str:
        return "the package quick is missing: pip install 'dwindle[quick]'"


def test_every_engine_is_told_of() -> None:
    found = {finding.subject: finding for finding in check_engines()}
    assert set(found) == {f"engine {name}" for name in RUNTIMES} | {"LiteRT converter"}
    assert found["engine onnxruntime"].fact.endswith("runs .onnx and .dwn")
    assert {finding.status for finding in found.values()} <= {Status.FINE, Status.WARNING}


def test_an_absent_engine_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "RUNTIMES", {"quick": Absent})
    monkeypatch.setattr(engines, "converter_python", lambda: None)
    engine, converter = check_engines()
    assert (engine.subject, engine.status) == ("engine quick", Status.FINE)
    assert engine.fact == "absent: the package quick is missing: pip install 'dwindle[quick]'"
    assert converter.fact == f"absent, so no .tflite can be written: {INSTALL}"


def test_a_converter_that_is_named_wrongly_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Path:
        raise ExportError("DWINDLE_LITERT_PYTHON names /x, which is no file")

    monkeypatch.setattr(engines, "RUNTIMES", {})
    monkeypatch.setattr(engines, "converter_python", refuse)
    (found,) = check_engines()
    assert (found.status, found.remedy) == (Status.WARNING, f"unset {VARIABLE}, then {INSTALL}")
    monkeypatch.setattr(engines, "converter_python", lambda: Path("/somewhere/python"))
    assert check_engines()[0].fact == "writes .tflite files (/somewhere/python)"
