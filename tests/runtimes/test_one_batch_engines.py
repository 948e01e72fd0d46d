"""This file tests what LiteRT's and ExecuTorch's adapters do alike: files of one batch size, wrong and hostile ones."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from dwindle.artifact import Artifact
from dwindle.errors import MeasurementError, NetworkError
from dwindle.runtimes.catalogue import RUNTIMES
from dwindle.runtimes.protocol import Runtime

IMAGE = np.zeros((1, 2, 8, 8), np.float32)


@dataclass(frozen=True)
class Case:
    """An engine with a quantized file of its own, and the beginning of the other one's files."""

    engine: Runtime
    artifact: Artifact
    other: bytes


@pytest.fixture(params=[("litert", "tflite", b"\x1c\x00\x00\x00ET12"), ("executorch", "pte", b"\x1c\x00\x00\x00TFL3")])
def case(request, engine_file) -> Case:
    name, suffix, other = request.param
    engine = RUNTIMES[name]()
    if reason := engine.unavailable():
        pytest.skip(reason)
    return Case(engine, engine_file("int8", suffix), other)


def test_a_batch_is_answered_example_by_example(case, engine_images):
    images = engine_images.numpy()
    with case.engine.load(case.artifact) as session:
        (together,) = session.run(images[:3])
        alone = [session.run(images[i : i + 1])[0] for i in range(3)]
    np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "takes 1 inputs"),
        ((IMAGE,) * 2, "takes 1 inputs .*got 2"),
        ((IMAGE[:0],), r"must be float32 of shape \(1, 2, 8, 8\).*got float32 of shape \(0,"),
        ((np.zeros((1, 2, 8, 9), np.float32),), r"got float32 of shape \(1, 2, 8, 9\)"),
        ((IMAGE[0],), r"got float32 of shape \(2, 8, 8\)"),
        ((np.float32(1),), r"got float32 of shape \(\)"),
        ((IMAGE.astype(np.float64),), "got float64"),
        ((IMAGE.astype(np.int8),), "got int8"),
    ],
)
def test_wrong_inputs_are_one_error_each(given, message, case):
    with case.engine.load(case.artifact) as session, pytest.raises(NetworkError, match=message):
        session.run(*given)


CORRUPT = {
    "empty": lambda data: b"",
    "text": lambda data: b"this is no model\n" * 100,
    "noise": lambda data: np.random.default_rng(2).bytes(4096),
    "the beginning alone": operator.itemgetter(slice(8)),
    "truncated": lambda data: data[: len(data) // 2],
    "without its last bytes": operator.itemgetter(slice(-64)),
    "noise behind the beginning": lambda data: data[:8] + np.random.default_rng(1).bytes(4096),
}
"""Noise as such ends the process where an engine is given it: they check less than they should."""


@pytest.mark.parametrize("kind", [*CORRUPT, "another format"])
def test_a_file_that_is_none_is_one_error(kind, case, tmp_path):
    data = case.artifact.path.read_bytes()
    path = tmp_path / f"model.{case.artifact.format}"
    path.write_bytes(CORRUPT[kind](data) if kind in CORRUPT else case.other + data[8:])
    with pytest.raises(MeasurementError, match="export it again"), case.engine.load(Artifact.of(path)):
        pass


def test_a_missing_file_is_named(case, tmp_path):
    absent = replace(case.artifact, path=tmp_path / "absent.model")
    with pytest.raises(MeasurementError, match=r"cannot read .*absent\.model: No such file"), case.engine.load(absent):
        pass
