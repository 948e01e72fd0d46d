"""This file tests metrics of classes where a network has one output: right answers, confusion, F1, and the drop."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from dwindle.artifact import Artifact
from dwindle.bench.batches import Batch
from dwindle.bench.measurement import ACCURACY, Subject
from dwindle.bench.plan import Plan
from dwindle.bench.probes.accuracy import answer, measure_accuracy
from dwindle.bench.probes.scores import CLASSIFICATION, as_scores, scores_named
from dwindle.errors import DataError, SettingError
from dwindle.runtimes.fake import FakeRuntime

SUBJECT = Subject(artifact="f" * 64, runtime="fake", machine="m")
OUTPUT = np.array([[0.1], [0.5], [0.6], [0.9], [0.2]], dtype=np.float32)
TRUTH = np.array([0, 0, 1, 0, 1])


def answered(outputs, *, scores=CLASSIFICATION, threshold=0.5, truth=TRUTH):
    artifact = Artifact(path=None, format="dwn", sha256="f", size_bytes=1)  # type: ignore[arg-type]
    with FakeRuntime().load(artifact) as session:
        batch = Batch(inputs=(outputs,), targets=truth)
        return answer([("m", session)], [batch], scores=scores, threshold=threshold)[0]


def test_each_example_is_right_or_wrong():
    found = answered(OUTPUT)
    assert found.values[ACCURACY].tolist() == [True, True, True, False, False]
    assert found.confusion is not None
    assert found.confusion.tolist() == [[2, 1], [1, 1]]


def test_f1_is_that_of_scikit_learn():
    found = answered(OUTPUT, scores=scores_named(["f1_macro"]))
    (measurement,) = measure_accuracy(SUBJECT, found)
    expected = metrics.f1_score(TRUTH, (OUTPUT[:, 0] > 0.5).astype(int), average="macro")
    assert measurement.value == pytest.approx(expected)


def test_errors_are_those_of_the_output_itself():
    found = answered(OUTPUT, scores=scores_named(["mean_absolute_error"]))
    (measurement,) = measure_accuracy(SUBJECT, found)
    assert measurement.value == pytest.approx(float(np.abs(OUTPUT[:, 0] - TRUTH).mean()))


def test_labels_beyond_two_classes_are_refused():
    with pytest.raises(DataError, match="the label 2 is out of range"):
        answered(OUTPUT, truth=np.array([0, 1, 2, 0, 1]))


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_a_threshold_is_a_number(threshold):
    with pytest.raises(SettingError, match="finite number"):
        Plan(threshold=threshold)


def test_without_a_threshold_the_error_says_what_is_missing():
    with pytest.raises(DataError, match="say above which threshold"):
        answered(OUTPUT, threshold=None)


def test_a_threshold_for_several_outputs_is_refused():
    with pytest.raises(SettingError, match=r"the threshold 0.5 .* gives several for each example; leave the threshold"):
        answered(np.eye(5, 3, dtype=np.float32))


def test_two_outputs_have_no_threshold():
    outputs = np.array([[1.0, 0.9], [0.0, 0.1]], dtype=np.float32)
    assert as_scores(outputs, 0.5) is outputs
    assert as_scores((OUTPUT, OUTPUT), 0.5) == (OUTPUT, OUTPUT)
