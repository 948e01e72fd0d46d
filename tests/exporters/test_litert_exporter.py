"""This file tests files for LiteRT: the integers in them, and one clear error for each way in which there is none."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from dwindle.bench.deployment import deploy
from dwindle.cli.main import app
from dwindle.container.integer import integer_form
from dwindle.errors import ExportError
from dwindle.exporters import litert, litert_environment
from dwindle.exporters.litert import LiteRtExporter
from dwindle.exporters.litert_environment import (
    INSTALL,
    VARIABLE,
    converter_python,
    install_converter,
    working_converter,
)
from dwindle.exporters.native import to_record
from dwindle.exporters.options import ExportOptions
from dwindle.exporters.preprocessing import Preprocessing
from dwindle.exporters.program_options import fixed_program
from dwindle.exporters.survival import lost_integers
from dwindle.network.compressed import CompressedModel
from dwindle.technique import Context
from dwindle.techniques.cast_half import CastHalf
from dwindle.techniques.cluster import Cluster

ROW = torch.ones(1, 3)


@pytest.fixture
def dense() -> CompressedModel:
    return CompressedModel.dense(nn.Linear(3, 2).eval())


def script(folder: Path, body: str) -> Path:
    """Return an executable that stands in for the converter's Python."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\nimport os, signal, sys, time\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize("name", ["int8", "int16"])
def test_our_integers_and_scales_are_in_the_file(name, engine_file, engine_models):
    model, artifact = engine_models[name], engine_file(name, "tflite")
    data = artifact.path.read_bytes()
    forms = {w: integer_form(to_record(model.encodings[w])) for w in ("0.weight", "2.weight", "6.weight")}
    scales = [quantizer.scale for quantizer in model.activations.values()]
    assert lost_integers(data, forms, scales) == []
    assert artifact.origin == model.digest()
    floats = model.network.get_parameter("0.weight").detach().permute(0, 2, 3, 1).contiguous().numpy()
    assert floats.tobytes() not in data


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "print('Error: first', file=sys.stderr); sys.exit('ValueError: no such operation')",
            "refuses the network: Val",
        ),
        ("sys.exit(3)", "refuses the network: no reason given"),
        ("sys.exit(0)", "refuses the network: no reason given"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was ended by signal 9; it may have run out of memory"),
        ("sys.exit(\"ModuleNotFoundError: No module named 'litert_torch'\")", "has no litert-torch; dwindle doctor"),
        ("time.sleep(60)", "did not finish: .*timed out"),
    ],
)
def test_a_converter_that_gives_no_file_is_one_error(body, message, dense, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(script(tmp_path, body)))
    monkeypatch.setattr(litert, "_MINUTES", 1 / 60 if "sleep" in body else 1)
    with pytest.raises(ExportError, match=message):
        LiteRtExporter().export(dense, ROW, tmp_path / "model.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["python"]


def test_a_converter_that_changes_integers_is_found_out(engine_models, engine_images, tmp_path, monkeypatch):
    body = "open(sys.argv[4], 'wb').write(b'something else')"
    monkeypatch.setenv(VARIABLE, str(script(tmp_path, body)))
    with pytest.raises(ExportError, match=r"changed the codes of '0.weight', .*; the file would answer differently"):
        LiteRtExporter().export(engine_models["int8"], engine_images, tmp_path / "model.tflite")


def test_the_converter_sees_no_modules_but_its_own(dense, tmp_path, monkeypatch):
    """The folder of its script holds `onnx.py` and `executorch.py`, which would stand in front of the packages."""
    body = "assert sys.argv[1] == '-I'; open(sys.argv[4], 'wb').write(' '.join(sys.argv[5:]).encode())"
    monkeypatch.setenv(VARIABLE, str(script(tmp_path, body)))
    artifact = LiteRtExporter().export(dense, ROW, tmp_path / "model.tflite")
    assert artifact.path.read_bytes() == b"float"


def test_where_the_file_cannot_be_written_it_says_so(dense, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(script(tmp_path, "open(sys.argv[4], 'wb').write(b'x')")))
    (tmp_path / "model.tflite").mkdir()
    with pytest.raises(ExportError, match=r"cannot write 1 bytes to .*model\.tflite: .*a folder"):
        LiteRtExporter().export(dense, ROW, tmp_path / "model.tflite")


def test_a_python_that_is_none_is_an_obstacle(dense, tmp_path, monkeypatch):
    monkeypatch.setattr(litert_environment.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "absent"))
    (reason,) = LiteRtExporter().obstacles(dense)
    assert "absent, which is no file; name a Python with litert-torch" in reason
    (tmp_path / "text").write_text("no program")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "text"))
    with pytest.raises(ExportError, match=f"did not finish: .*{INSTALL}"):
        LiteRtExporter().export(dense, ROW, tmp_path / "model.tflite")


def test_a_disk_without_room_is_one_error(dense, tmp_path, monkeypatch):
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv(VARIABLE, str(script(tmp_path, "")))
    monkeypatch.setattr(litert.tempfile, "TemporaryDirectory", full)
    with pytest.raises(ExportError, match=r"did not finish: .*No space left on device; free disk space"):
        LiteRtExporter().export(dense, ROW, tmp_path / "model.tflite")


def test_without_a_converter_nothing_is_written(dense, tmp_path, monkeypatch):
    monkeypatch.setattr(litert, "converter_python", lambda: None)
    with pytest.raises(ExportError, match=f"tflite: LiteRT's converter is not installed: {INSTALL}"):
        deploy(dense, ROW, tmp_path / "out", formats=("dwn", "tflite"))
    assert not list(tmp_path.iterdir())


def test_options_that_the_format_lacks_are_refused(dense):
    options = ExportOptions(preprocessing=Preprocessing(scale=1 / 255), float_type="float16")
    reasons = LiteRtExporter(options=options).obstacles(dense)
    assert any("preprocessing cannot be put into this format; deploy as onnx or dwn" in reason for reason in reasons)
    assert any("it computes in float32, not float16; CastHalf" in reason for reason in reasons)


# The environment of the converter


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A data folder of its own, and no converter anywhere."""
    monkeypatch.setattr(litert_environment, "own_folder", lambda: tmp_path / "data" / "litert")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(litert_environment.importlib.util, "find_spec", lambda name: None)
    return tmp_path / "data" / "litert"


def test_the_environment_counts_once_it_is_whole(home, monkeypatch):
    commands: list[tuple[str, ...]] = []

    def run(command, **settings):
        commands.append(tuple(command))
        assert not {"PIP_CONSTRAINT", "PYTHONPATH"} & set(settings["env"])
        if "venv" in command:
            Path(command[-1]).joinpath("bin").mkdir()
            Path(command[-1]).joinpath("bin/python").touch()
        assert converter_python() is None
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("PIP_CONSTRAINT", "pins.txt")
    monkeypatch.setattr(subprocess, "run", run)
    assert converter_python() is None
    assert install_converter() == converter_python() == litert_environment.own_python()
    assert [command[1:3] for command in commands] == [("-m", "venv"), ("-m", "pip"), ("-c", "import litert_torch")]
    version = torch.__version__.partition("+")[0]
    assert commands[1][-2:] == (f"torch=={version}", litert_environment.CONVERTER)


def test_an_environment_of_another_torch_does_not_count(home):
    home.joinpath("bin").mkdir(parents=True)
    litert_environment.own_python().touch()
    home.joinpath("ready").write_text(f"torch==1.0.0 {litert_environment.CONVERTER}\n", encoding="utf-8")
    assert converter_python() is None


def test_weights_are_halves_only_where_all_of_them_are(dense):
    program = fixed_program(dense, ROW, ExportOptions(), from_floats=True)
    whole = CastHalf().apply(dense, Context())
    part = CastHalf(biases=False).apply(dense, Context())
    shared = CastHalf().apply(Cluster(codebook_size=4).apply(dense, Context()), Context())
    assert [litert._mode(model, program) for model in (dense, whole, part, shared)] == [
        "float",
        "half",
        "float",
        "half",
    ]


def test_an_environment_that_fails_does_not_count(home, monkeypatch):
    def refuse(command, **settings):
        return subprocess.CompletedProcess(command, 1, "", "one\ntwo\nERROR: No matching distribution\nhint")

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(
        ExportError, match=r"-m venv .*litert.new failed \(1\): two; ERROR: No matching distribution; hint"
    ):
        install_converter()
    assert converter_python() is None

    def full(command, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(subprocess, "run", full)
    with pytest.raises(ExportError, match="No space left on device; free disk space and try again"):
        install_converter()


def finished(home: Path) -> Path:
    """Return the Python of an environment that was made before."""
    home.joinpath("bin").mkdir(parents=True)
    litert_environment.own_python().touch()
    home.joinpath("ready").write_text(litert_environment._contents(), encoding="utf-8")
    return litert_environment.own_python()


def test_an_earlier_environment_serves_until_the_new_one_is_whole(home, monkeypatch):
    python = finished(home)
    home.joinpath("mark").touch()
    fails = [False, True]

    def run(command, **settings):
        if "venv" in command:
            Path(command[-1]).joinpath("bin").mkdir()
            Path(command[-1]).joinpath("bin/python").touch()
        assert converter_python() == python
        return subprocess.CompletedProcess(command, int(fails[-1] and "pip" in command), "", "no")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ExportError, match="-m pip install failed"):
        install_converter()
    assert converter_python() == python
    assert home.joinpath("mark").exists()
    fails.pop()
    assert install_converter() == converter_python() == python
    assert not home.joinpath("mark").exists()
    assert [path.name for path in home.parent.iterdir()] == ["litert"]


def test_two_installations_at_once_are_one_error(home):
    home.with_name("litert.new").mkdir(parents=True)
    with pytest.raises(ExportError, match=r"litert\.new is there: another installation is at work; wait for it"):
        install_converter()
    assert home.with_name("litert.new").exists()


def test_a_converter_works_where_it_can_be_imported(home, monkeypatch, tmp_path):
    assert working_converter() is None
    python, codes = finished(home), [1, 0]
    monkeypatch.setattr(
        subprocess, "run", lambda command, **settings: subprocess.CompletedProcess(command, codes.pop(), "", "no")
    )
    assert working_converter() == python
    assert working_converter() is None
    named = script(tmp_path, "")
    monkeypatch.setenv(VARIABLE, str(named))
    codes.append(1)
    with pytest.raises(ExportError, match=f"cannot import the converter .*unset {VARIABLE}"):
        working_converter()


def test_what_works_is_not_installed_again(home, monkeypatch):
    python = finished(home)
    monkeypatch.setattr(litert_environment, "working_converter", lambda: python)
    monkeypatch.setattr(litert_environment, "install_converter", lambda: pytest.fail("it was there"))
    result = CliRunner().invoke(app, ["doctor", "--install", "litert"])
    assert result.exit_code == 0
    assert "already there, nothing to do: " in result.output
    monkeypatch.setattr(litert_environment, "working_converter", lambda: None)
    monkeypatch.setattr(litert_environment, "install_converter", lambda: python)
    assert str(home) in CliRunner().invoke(app, ["doctor", "--install", "litert"]).output.replace("\n", "")


def test_its_place_is_the_users_data_folder():
    assert litert_environment.own_folder().name == "litert"
    assert litert_environment.own_folder().parent.name == "dwindle"
    assert litert_environment.own_python().is_relative_to(litert_environment.own_folder())
    assert litert_environment.own_folder().is_absolute()


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes(engine_models, engine_images, engine_file, tmp_path):
    again = LiteRtExporter().export(engine_models["int8"], engine_images, tmp_path / "again.tflite")
    assert again.sha256 == engine_file("int8", "tflite").sha256
