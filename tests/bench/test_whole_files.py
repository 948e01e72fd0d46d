"""What zip makes of a file, and how long a file takes for a whole data set."""

from __future__ import annotations

import itertools
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.artifact import Artifact
from dwindle.bench.measurement import Subject
from dwindle.bench.probes.whole_set import TimedSession, measure_whole_set
from dwindle.bench.probes.zipped import measure_zipped_size, zipped_bytes
from dwindle.errors import MeasurementError

SUBJECT = Subject(artifact="f" * 64, runtime="an engine", machine="a machine")


def test_the_zipped_size_is_that_of_an_archive_on_disk(tmp_path):
    file = tmp_path / "model"
    file.write_bytes(bytes(range(256)) * 100)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        archive.write(file, "model")
    found = measure_zipped_size(Artifact.of(file))
    assert found.value == found.low == found.high == (tmp_path / "a.zip").stat().st_size
    assert found.value < 25_600 / 3


def test_what_is_random_is_not_zipped_smaller():
    content = np.random.default_rng(0).bytes(10_000)
    assert 10_000 < zipped_bytes(content) < 10_300


def test_a_file_that_changed_is_not_weighed(tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"before")
    artifact = Artifact.of(file)
    file.write_bytes(b"after")
    with pytest.raises(MeasurementError, match="has changed"):
        measure_zipped_size(artifact)


class Doubling:
    """A session that answers with twice its input."""

    def run(self, *inputs):
        return (2 * inputs[0],)


def test_a_timed_session_answers_as_it_does_and_notes_every_call():
    ticks = itertools.count()
    timed = TimedSession(Doubling(), clock=lambda: next(ticks) ** 2, cpu_clock=lambda: 7.0)
    answers = [timed.run(np.ones(2))[0].tolist() for _ in range(3)]
    assert answers == [[2.0, 2.0]] * 3
    assert timed.seconds == [1, 5, 9]
    assert timed.cpu_seconds == [0.0, 0.0, 0.0]


@given(st.lists(st.floats(1e-6, 10.0), min_size=2, max_size=200))
def test_the_time_is_the_sum_and_lies_in_its_interval(seconds):
    found = measure_whole_set(SUBJECT, seconds, batch=1)
    assert found.value == pytest.approx(sum(seconds))
    assert 0.0 < found.low <= found.value <= found.high
    assert found.n == len(seconds)
    assert found.metric.unit == "s"


def test_calls_that_drift_together_widen_the_interval():
    generator = np.random.default_rng(1)
    drifting = 1.0 + 0.5 * np.sin(np.linspace(0.0, 12.0, 1000)) + 0.1 * generator.random(1000)
    shuffled = generator.permutation(drifting)
    widths = [
        found.high - found.low for found in (measure_whole_set(SUBJECT, list(s), batch=1) for s in (drifting, shuffled))
    ]
    assert widths[0] > 3 * widths[1]


def test_one_call_says_nothing_about_the_spread():
    with pytest.raises(MeasurementError, match="1 call says nothing"):
        measure_whole_set(SUBJECT, [0.1], batch=1)
