"""This file tests what engines share: names, refusals, batches of one size, caught output, beginnings of files."""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest

from dwindle.artifact import Artifact
from dwindle.errors import MeasurementError, NetworkError, RuntimeUnavailableError, SettingError
from dwindle.runtimes import catalogue
from dwindle.runtimes.catalogue import RUNTIMES, engine_for, engine_of
from dwindle.runtimes.chatter import caught_chatter
from dwindle.runtimes.fake import FakeRuntime
from dwindle.runtimes.fixed_batch import joined, run_in_parts
from dwindle.runtimes.loadable import require_beginning
from dwindle.runtimes.package import engine_package, version_of
from dwindle.runtimes.protocol import InputSpec

# The catalogue


class Engine:
    def __init__(self, *formats: str, reason: str | None = None) -> None:
        self.formats, self.reason, self.name = formats, reason, f"engine of {formats}"

    def unavailable(self) -> str | None:
        return self.reason


@pytest.mark.parametrize(
    ("file_format", "name"),
    [("onnx", "onnxruntime"), ("dwn", "onnxruntime"), ("tflite", "litert"), ("pte", "executorch"), ("xml", "openvino")],
)
def test_each_format_has_its_engine(file_format, name):
    made = RUNTIMES[name]()
    assert file_format in made.formats
    if made.unavailable() is None:
        assert engine_for(file_format).name == made.name
        assert engine_of(name).name == made.name


def test_the_first_engine_that_is_there_runs_a_format(monkeypatch):
    engines = {"a": Engine("x", reason="a is missing"), "b": Engine("x", "y"), "c": Engine("x", "z", reason="no c")}
    monkeypatch.setattr(catalogue, "RUNTIMES", {name: lambda made=made: made for name, made in engines.items()})
    assert engine_for("x") is engine_for("y") is engines["b"]
    with pytest.raises(RuntimeUnavailableError, match="no c"):
        engine_for("z")
    with pytest.raises(SettingError, match="no engine runs 'xx' files; the nearest known one is 'x'"):
        engine_for("xx")
    with pytest.raises(RuntimeUnavailableError, match="a is missing"):
        engine_of("a")
    with pytest.raises(SettingError, match=r"unknown runtime 'd'; .*or pass a runtime object"):
        engine_of("d")


def test_an_engine_given_is_taken_as_it_is():
    engine = FakeRuntime()
    assert engine_of(engine) is engine


# What every engine refuses


@pytest.mark.parametrize("name", RUNTIMES)
def test_no_threads_and_other_formats_are_refused(name, tmp_path):
    engine = RUNTIMES[name]()
    (tmp_path / "model.other").write_bytes(b"x")
    other = Artifact.of(tmp_path / "model.other")
    for n_threads in (0, -1):
        with (
            pytest.raises(SettingError, match=f"n_threads must be at least 1, got {n_threads}"),
            engine.load(other, n_threads=n_threads),
        ):
            pass
    if reason := engine.unavailable():
        pytest.skip(reason)
    message = rf"{name} loads \.{engine.formats[0]}.* files, not 'other' .*deploy as {engine.formats[0]}"
    with pytest.raises(MeasurementError, match=message), engine.load(other):
        pass


@pytest.mark.parametrize("name", RUNTIMES)
def test_without_its_package_an_engine_says_what_to_install(name, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    engine = RUNTIMES[name]()
    absent = Artifact(path=tmp_path / "absent", format=engine.formats[0], sha256="0", size_bytes=1)
    assert engine.name.startswith(f"{name} not installed")
    with pytest.raises(RuntimeUnavailableError, match=rf"pip install ('dwindle\[)?{name}"), engine.load(absent):
        pass


# Files of one batch size


def spec(*shape, name="x", dtype=np.float32) -> InputSpec:
    return InputSpec(name=name, dtype=np.dtype(dtype), type_name="t", shape=shape)


def test_a_batch_goes_through_in_parts():
    sizes: list[int] = []

    def run(x, y):
        sizes.append(len(x))
        return x + y, y

    x, y = np.arange(12, dtype=np.float32).reshape(6, 2), np.ones((6, 1), np.float32)
    specs = (spec(2, 2), spec(2, 1, name="y"))
    total, same = run_in_parts(run, (x, y), specs)
    assert sizes == [2, 2, 2]
    np.testing.assert_array_equal(total, x + y)
    np.testing.assert_array_equal(same, y)
    run_in_parts(run, (x, y), (spec(None, 2), spec("batch", 1, name="y")))
    assert sizes[-1] == 6


def test_a_batch_of_the_size_of_the_file_is_not_copied():
    x = np.zeros((2, 2), np.float32)
    (given,) = run_in_parts(lambda array: (array,), (x,), (spec(2, 2),))
    assert given is x


@pytest.mark.parametrize("shape", [(0, 2), (3, 2), (2, 3), (2,), (2, 2, 1)])
def test_what_does_not_fit_is_refused(shape):
    with pytest.raises(NetworkError, match=r"'x' must be float32 of shape \(2, 2\) or a multiple of its batch"):
        run_in_parts(lambda array: (array,), (np.zeros(shape, np.float32),), (spec(2, 2),))


def test_inputs_of_unequal_numbers_are_refused():
    specs = (spec(2, 2), spec(2, 2, name="y"))
    inputs = (np.zeros((4, 2), np.float32), np.zeros((2, 2), np.float32))
    with pytest.raises(NetworkError, match="the inputs hold 4, 2 examples; give as many of each"):
        run_in_parts(lambda *arrays: arrays, inputs, specs)


def test_inputs_as_the_file_tells_them_are_not_split():
    specs = (spec(1, 3), spec(name="scale"), spec(2, 1, 3, name="states"))
    given = (np.zeros((1, 3), np.float32), np.float32(2), np.zeros((2, 1, 3), np.float32))
    given = tuple(np.asarray(array) for array in given)
    assert run_in_parts(lambda *arrays: arrays, given, specs) == given


def test_a_batch_that_is_open_may_stand_beside_a_fixed_one():
    specs = (spec(None, 2), spec(1, 3, name="y"))
    x, y = np.zeros((5, 2), np.float32), np.ones((5, 3), np.float32)
    sizes: list[tuple[int, int]] = []

    def run(x, y):
        sizes.append((len(x), len(y)))
        return (x,)

    run_in_parts(run, (x, y[:1]), specs)
    run_in_parts(run, (x, y), specs)
    assert sizes == [(5, 1), *[(1, 1)] * 5]


def test_one_number_for_a_batch_cannot_be_put_together():
    with pytest.raises(NetworkError, match="output 1 is one number for a whole batch"):
        joined([(np.zeros((1, 2)), np.array(1.0))] * 2)


def test_a_batch_of_none_is_refused():
    with pytest.raises(NetworkError, match=r"'x' must be float32 of shape \(0, 2\)"):
        run_in_parts(lambda array: (array,), (np.zeros((3, 2), np.float32),), (spec(0, 2),))


def test_an_engine_under_another_name_has_a_version():
    assert version_of("numpy", distribution="numpy-nightly") == np.__version__
    assert version_of("json", distribution="json-nightly") == "of unknown version"
    assert version_of("no_such_engine", distribution="no-such-engine") == "not installed"


def test_a_broken_package_is_an_engine_that_is_not_there(monkeypatch, tmp_path):
    broken = tmp_path / "broken_engine.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    for error in ("ImportError", "OSError", "ValueError"):
        broken.write_text(f"raise {error}('libfast.so is missing')")
        with pytest.raises(RuntimeUnavailableError, match=r"cannot be imported \(libfast.so is missing\): pip install"):
            engine_package("broken_engine", extra="litert")


def test_what_a_package_says_while_it_is_imported_is_not_shown(tmp_path, monkeypatch, capfd):
    body = "import os, warnings\nos.write(2, b'Failed to load x.so')\nwarnings.warn('this is old')\n"
    (tmp_path / "loud_engine.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    assert engine_package("loud_engine", extra="litert").__name__ == "loud_engine"
    assert not capfd.readouterr().err


# What engines print


def test_what_an_engine_prints_stands_in_the_error(capfd):
    with caught_chatter() as told:
        os.write(2, b"one\ntwo\nthree\n  four \n")
        assert told() == "two; three; four"
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_the_terminal_comes_back_after_an_error(capfd):
    def fail() -> None:
        with caught_chatter():
            os.write(2, b"hidden\n")
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        fail()
    os.write(2, b"shown\n")
    assert capfd.readouterr().err == "shown\n"


# Beginnings


def test_a_file_begins_as_its_format_says(tmp_path):
    path = tmp_path / "m.pte"
    path.write_bytes(b"\x00\n\x00\x00ET12rest")
    require_beginning(path, rb".{4}ET\d\d", kind=".pte")
    for data, told in ((b"", "is empty"), (b"ET12", "begins with b'ET12'"), (b"\x00" * 99, "begins with")):
        path.write_bytes(data)
        with pytest.raises(MeasurementError, match=rf"m\.pte is no \.pte file: it {told}"):
            require_beginning(path, rb".{4}ET\d\d", kind=".pte")
    with pytest.raises(MeasurementError, match="Is a directory"):
        require_beginning(tmp_path, b"x", kind=".pte")
