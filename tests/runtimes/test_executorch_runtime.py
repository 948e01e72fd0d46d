"""This file tests ExecuTorch's adapter: answers, types, the method that is called, threads."""

from __future__ import annotations

import numpy as np
import pytest

from dwindle.artifact import Artifact
from dwindle.bench.deployment import FLOAT_BOUND, QUANTIZED_BOUND, model_outputs
from dwindle.errors import MeasurementError
from dwindle.runtimes import executorch
from dwindle.runtimes.executorch import ExecuTorchRuntime

pytest.importorskip("executorch", reason="needs executorch")


@pytest.mark.parametrize(("name", "bound"), [("float", FLOAT_BOUND), ("int8", QUANTIZED_BOUND)])
def test_files_answer_as_the_model(name, bound, engine_file, engine_models, engine_images):
    (ours,) = model_outputs(engine_models[name], engine_images)
    with ExecuTorchRuntime().load(engine_file(name, "pte")) as session:
        (theirs,) = session.run(engine_images.numpy())
        (again,) = session.run(engine_images.numpy())
    assert np.abs(ours - theirs).max() <= bound * np.abs(ours).max()
    np.testing.assert_array_equal(theirs, again)


def test_the_file_tells_its_inputs(engine_file):
    with ExecuTorchRuntime().load(engine_file("int8", "pte")) as session:
        (spec,) = session.inputs
        assert session.input_names == ("input_0",)
    assert (spec.dtype, spec.shape) == (np.float32, (1, 2, 8, 8))


def test_what_is_no_number_stays_none(engine_file):
    with ExecuTorchRuntime().load(engine_file("float", "pte")) as session:
        (answer,) = session.run(np.full((1, 2, 8, 8), np.inf, np.float32))
    assert not np.isfinite(answer).all()


def test_a_program_without_the_method_is_one_error(engine_file, tmp_path):
    data = engine_file("int8", "pte").path.read_bytes()
    assert b"forward" in data
    (tmp_path / "other.pte").write_bytes(data.replace(b"forward", b"predict"))
    artifact = Artifact.of(tmp_path / "other.pte")
    message = r"cannot load .*'forward'.*export it again"
    with pytest.raises(MeasurementError, match=message), ExecuTorchRuntime().load(artifact):
        pass


def test_its_name_tells_that_it_is_traced():
    assert ExecuTorchRuntime(is_traced=True).name == f"{ExecuTorchRuntime().name} (traced)"


def test_threads_are_those_that_were_asked_for(engine_file, engine_images):
    for n_threads in (2, 1):
        with ExecuTorchRuntime().load(engine_file("float", "pte"), n_threads=n_threads) as session:
            portable, _ = executorch._engine()
            assert portable._threadpool_get_thread_count() == n_threads
            assert np.isfinite(session.run(engine_images.numpy()[:1])[0]).all()
