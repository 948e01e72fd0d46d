"""This file tests the probes: what they find where the truth is known, and the one clear error on each wrong input."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from dwindle.artifact import Artifact
from dwindle.bench.batches import Batch, batches, run_batch
from dwindle.bench.measurement import Measurement, Metric, Subject, exactly
from dwindle.bench.probes.accuracy import answer, measure_accuracy, measure_drop
from dwindle.bench.probes.latency import compare_loads, measure_latency, measure_speedup, time_session
from dwindle.bench.probes.parity import measure_parity
from dwindle.bench.probes.scores import TOP1, Score, top1, top5
from dwindle.bench.probes.size import measure_size
from dwindle.bench.protocol import LatencyProtocol
from dwindle.errors import DataError, ExportError, MeasurementError, NetworkError
from dwindle.runtimes.fake import FakeClock, FakeRuntime
from dwindle.runtimes.protocol import Array, Session

SUBJECT = Subject(artifact="f" * 64, runtime="fake", machine="m", conditions={"format": "dwn"})
ANY_FILE = Artifact(path=Path("any.dwn"), format="dwn", sha256="f" * 64, size_bytes=1)


def session_of(runtime: FakeRuntime) -> Session:
    with runtime.load(ANY_FILE) as session:
        return session


def one_hot(classes: Array, n_classes: int = 10) -> Array:
    return np.eye(n_classes, dtype=np.float32)[classes]


def named(measurements: tuple[Measurement, ...]) -> dict[str, Measurement]:
    return {m.metric.name: m for m in measurements}


# Size


def test_size_and_ratio_come_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.dwn"
    path.write_bytes(b"x" * 100)
    found = named(measure_size(Artifact.of(path), n_dense_weights=250))
    assert found["size"].value == 100
    assert found["compression_ratio"].value == 10
    assert found["size"].artifact == Artifact.of(path).sha256
    assert named(measure_size(Artifact.of(path))).keys() == {"size"}


def test_a_file_that_changed_or_is_gone_or_empty_is_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "model.dwn"
    path.write_bytes(b"x" * 100)
    artifact = Artifact.of(path)
    path.write_bytes(b"y" * 100)
    with pytest.raises(MeasurementError, match="has changed since it was exported"):
        measure_size(artifact)
    path.unlink()
    with pytest.raises(MeasurementError, match="cannot be read"):
        measure_size(artifact)
    path.touch()
    with pytest.raises(MeasurementError, match="is empty"):
        measure_size(Artifact.of(path))


# Batches


@given(n=st.integers(1, 20), batch_size=st.integers(1, 8))
def test_every_example_arrives_once_and_in_order(n: int, batch_size: int) -> None:
    data = TensorDataset(torch.arange(n).float()[:, None], torch.arange(n))
    found = list(batches(data, batch_size=batch_size))
    np.testing.assert_array_equal(np.concatenate([batch.targets for batch in found]), np.arange(n))
    np.testing.assert_array_equal(np.concatenate([batch.inputs[0] for batch in found])[:, 0], np.arange(n))
    assert max(map(len, found)) <= batch_size
    assert [batch.number for batch in found] == list(range(len(found)))


def test_batches_of_the_user_pass_through_also_with_several_inputs() -> None:
    source = [((torch.zeros(3, 2), np.ones((3, 1))), torch.arange(3))]
    (batch,) = batches(iter(source), batch_size=1)
    assert [array.shape for array in batch.inputs] == [(3, 2), (3, 1)]
    assert len(batch.head(2)) == 2


class Stream(torch.utils.data.IterableDataset[tuple[float, int]]):
    def __iter__(self):  # type: ignore[no-untyped-def]
        yield from ((float(i), i) for i in range(5))


def test_a_stream_of_examples_is_batched() -> None:
    assert [len(batch) for batch in batches(Stream(), batch_size=2)] == [2, 2, 1]


@pytest.mark.parametrize(
    "data", [TensorDataset(torch.zeros(0, 2), torch.zeros(0)), [], [(np.zeros((0, 2)), np.zeros(0))]]
)
def test_empty_data_is_an_error(data: object) -> None:
    with pytest.raises(DataError, match="the data set is empty"):
        list(batches(data, batch_size=4))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (np.zeros((2, 3)), r"batch 0 of the data is ndarray with 0 parts, expected \(inputs, targets\)"),
        ((1, 2, 3), "is tuple with 3 parts"),
        ((np.zeros((2, 3)), np.zeros(3)), r"holds shapes \(2, 3\), \(3,\); inputs and targets need one first axis"),
        ((np.zeros(()), np.zeros(())), "need one first axis"),
    ],
)
def test_what_is_no_batch_is_an_error(item: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(batches([item], batch_size=4))  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (ValueError("3 channels\nat ..."), DataError, r"m\.dwn cannot run the inputs of batch 0 \(.2, 3. float64\): "
                                                               "3 channels; give inputs"),
        (NetworkError("wants (batch, 4)"), DataError, r"m\.dwn cannot run the inputs of batch 0: wants \(batch, 4\)"),
        (MeasurementError("the engine failed"), MeasurementError, "^the engine failed$"),
    ],
)  # fmt: skip
def test_inputs_that_an_engine_refuses_are_one_clear_error(error: Exception, raised: type, message: str) -> None:
    def refuse(_: Array) -> tuple[Array, ...]:
        raise error

    with pytest.raises(raised, match=message):
        run_batch(
            session_of(FakeRuntime(outputs=refuse)),
            Batch(inputs=(np.zeros((2, 3)),), targets=np.zeros(2)),
            what="m.dwn",
        )


def test_an_answer_with_another_number_of_rows_is_an_error() -> None:
    session = session_of(FakeRuntime(outputs=lambda x: (x[:1],)))
    with pytest.raises(DataError, match=r"with shape \(1, 3\), not 2 rows"):
        run_batch(session, Batch(inputs=(np.zeros((2, 3)),), targets=np.zeros(2)), what="m.dwn")


# Accuracy


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40), st.integers(1, 7))
def test_accuracy_and_confusion_count_the_answers(pairs: list[tuple[int, int]], batch_size: int) -> None:
    predicted, truth = np.array(pairs).T
    data = [
        (one_hot(predicted[i : i + batch_size]), truth[i : i + batch_size]) for i in range(0, len(pairs), batch_size)
    ]
    (found,) = answer([("m", session_of(FakeRuntime()))], batches(data, batch_size=1))
    accuracy = named(measure_accuracy(SUBJECT, found))["accuracy"]
    assert accuracy.value == pytest.approx(np.mean(predicted == truth))
    assert 0 <= accuracy.low <= accuracy.high <= 1
    assert accuracy.n == len(pairs)
    assert found.confusion is not None
    for row, column in pairs:
        assert found.confusion[column, row] == sum(pair == (row, column) for pair in pairs)
    assert found.confusion.sum() == len(pairs)


def test_top5_counts_the_five_largest() -> None:
    logits = np.tile(np.arange(10.0), (10, 1))
    np.testing.assert_array_equal(top5(logits, np.arange(10)), np.arange(10) >= 5)
    np.testing.assert_array_equal(top1(logits, np.arange(10)), np.arange(10) == 9)


def test_top5_of_five_classes_says_nothing_and_is_left_out() -> None:
    data = [(one_hot(np.array([0, 1]), 5), np.array([0, 2]))]
    (found,) = answer([("m", session_of(FakeRuntime()))], batches(data, batch_size=1))
    assert [metric.name for metric in found.values] == ["accuracy"]


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (np.zeros((2, 10)), np.array([0, 10]), "the label 10 is out of range: the network has 10 classes, numbered"),
        (np.zeros((2, 10)), np.array([-1, 3]), "the label -1 is out of range"),
        (np.zeros((2, 10)), np.array([0.0, 1.0]), "these targets are float64: save them as int64, if they are class"),
        (np.zeros((2, 10)), np.array([[0], [1]]), r"the shape \(1,\) for each: save one number for each"),
        (np.zeros((2, 10)), np.eye(10)[:2], r"10 values for each: save argmax\(axis=1\) of them, if they are one-hot"),
        (np.zeros((2, 10)), np.array(["cat", "dog"]), "these targets are texts: number the classes from 0"),
        (np.zeros((2, 10, 4)), np.array([0, 1]), r"one output \(examples, classes\), the network gives \(2, 10, 4\)"),
    ],
)  # fmt: skip
def test_targets_that_are_no_classes_of_the_network_are_an_error(outputs: Array, targets: Array, message: str) -> None:
    with pytest.raises(DataError, match=message):
        answer([("m", session_of(FakeRuntime()))], batches([(outputs, targets)], batch_size=2))


def test_several_outputs_need_a_metric_of_ones_own() -> None:
    data = [(np.zeros((2, 3)), np.array([0, 1]))]
    session = session_of(FakeRuntime(outputs=lambda x: (x, x)))
    with pytest.raises(DataError, match=r"the network gives \[\(2, 3\), \(2, 3\)\]; name another metric"):
        answer([("m", session)], batches(data, batch_size=2))
    own = Score(Metric("error", "m", -1), lambda outputs, targets: outputs[0][:, 0] + outputs[1][:, 1] + targets)
    (found,) = answer([("m", session)], batches(data, batch_size=2), scores=(own,))
    assert found.confusion is None
    assert named(measure_accuracy(SUBJECT, found))["error"].value == 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_answers_that_are_not_finite_are_refused(bad: float) -> None:
    data = [(np.ones((2, 3)), np.array([0, 1]))]
    session = session_of(FakeRuntime(outputs=lambda x: (x * bad,)))
    with pytest.raises(MeasurementError, match="answers batch 0 with NaN or infinite values"):
        answer([("m", session)], batches(data, batch_size=2))


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_inputs_that_are_not_finite_are_refused_whatever_the_file_answers(bad: float) -> None:
    session = session_of(FakeRuntime(outputs=lambda x: (np.nan_to_num(x),)))  # as a quantizer does
    inputs = np.eye(3)
    inputs[2, 1] = bad
    with pytest.raises(DataError, match="the inputs of batch 1 hold NaN or infinite values; repair the data"):
        answer([("m", session)], batches(TensorDataset(torch.tensor(inputs), torch.arange(3)), batch_size=2))


def test_several_targets_reach_the_metric_of_the_user() -> None:
    data = [
        (np.ones((2, 3)), (np.array([0, 1]), np.array([[2.0], [4.0]]))),
        (np.ones((1, 3)), [np.array([0]), np.array([[6.0]])]),
    ]
    own = Score(Metric("error", "m", -1), lambda outputs, targets: outputs[:, 0] + targets[1][:, 0])
    (found,) = answer([("m", session_of(FakeRuntime()))], batches(data, batch_size=2), scores=(own,))
    assert named(measure_accuracy(SUBJECT, found))["error"].value == 5.0
    with pytest.raises(DataError, match="accuracy needs one target, the data give several"):
        answer([("m", session_of(FakeRuntime()))], batches(data, batch_size=2))


def test_a_share_outside_its_range_is_refused() -> None:
    own = Score(Metric("share", "fraction", +1), lambda outputs, targets: 7.0 * targets)
    with pytest.raises(MeasurementError, match=r"share gives values in \[0, 7\] .* its unit is a fraction"):
        answer(
            [("m", session_of(FakeRuntime()))],
            batches([(np.ones((2, 3)), np.array([0, 1]))], batch_size=2),
            scores=(own,),
        )


def test_no_metric_and_no_data_are_errors() -> None:
    with pytest.raises(DataError, match="no metric was asked for"):
        answer([("m", session_of(FakeRuntime()))], batches([(np.zeros((2, 3)), np.zeros(2))], batch_size=2), scores=())


def test_a_metric_returns_one_value_for_each_example() -> None:
    wrong = Score(Metric("loss", "nats", -1), lambda outputs, targets: outputs.mean())
    with pytest.raises(DataError, match=r"loss gave shape \(\) for 2 examples"):
        answer(
            [("m", session_of(FakeRuntime()))],
            batches([(np.zeros((2, 3)), np.zeros(2))], batch_size=2),
            scores=(wrong,),
        )


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=30))
def test_the_drop_is_paired_and_in_points(right: list[tuple[bool, bool]]) -> None:
    n = len(right)
    truth = np.zeros(n, dtype=np.int64)
    sides = [np.where(np.array(side), 0, 1) for side in zip(*right, strict=True)]
    both = np.stack([one_hot(side) for side in sides], axis=1)
    sessions = [
        (name, session_of(FakeRuntime(outputs=lambda x, i=i: (x[:, i],)))) for i, name in enumerate(("dense", "small"))
    ]
    dense, small = answer(sessions, batches([(both, truth)], batch_size=n))
    (drop,) = measure_drop(SUBJECT, dense, small, baseline="d" * 64)
    before, after = (100 * np.mean(side == 0) for side in sides)
    assert drop.metric.name == "accuracy_drop"
    assert drop.value == pytest.approx(before - after)
    assert drop.conditions["baseline"] == "d" * 64


@pytest.mark.parametrize(("better", "expected"), [(-1, 0.5), (+1, -0.5)])
def test_the_drop_of_another_metric_is_positive_where_it_got_worse(better: int, expected: float) -> None:
    score = Score(Metric("error", "m", better), lambda outputs, targets: outputs[:, 0])
    data = [(np.array([[1.0], [2.0], [4.0]]), np.zeros(3))]
    sessions = [(str(s), session_of(FakeRuntime(outputs=lambda x, s=s: (x + s,)))) for s in (0.0, 0.5)]
    dense, small = answer(sessions, batches(data, batch_size=3), scores=(score,))
    (drop,) = measure_drop(SUBJECT, dense, small, baseline="d")
    assert (drop.metric.name, drop.metric.unit, drop.value) == ("error_drop", "m", expected)


def test_right_or_wrong_of_another_metric_drops_in_points() -> None:
    score = Score(Metric("hit", "fraction", +1), TOP1.per_example)
    dense, small = answer(
        [("a", session_of(FakeRuntime())), ("b", session_of(FakeRuntime(outputs=lambda x: (-x,))))],
        batches([(one_hot(np.array([1, 1])), np.array([1, 1]))], batch_size=2),
        scores=(score,),
    )
    (drop,) = measure_drop(SUBJECT, dense, small, baseline="d")
    assert (drop.metric.name, drop.value) == ("hit_drop", 100)


def test_the_mean_of_one_example_has_no_interval() -> None:
    score = Score(Metric("error", "m", -1), lambda outputs, targets: outputs[:, 0])
    (found,) = answer(
        [("m", session_of(FakeRuntime()))], batches([(np.ones((1, 1)), np.zeros(1))], batch_size=1), scores=(score,)
    )
    with pytest.raises(DataError, match="1 example says nothing about the spread"):
        measure_accuracy(SUBJECT, found)


# Latency


def test_latency_of_a_session_is_that_of_its_runtime() -> None:
    runtime = FakeRuntime(latency_ms=2.0, noise=0.1)
    protocol = LatencyProtocol(enough_repeats=30)
    timing = time_session(session_of(runtime), (np.zeros(1),), protocol, clock=runtime.clock)
    found = named(measure_latency(SUBJECT, timing, batch=4))
    assert found["latency"].low <= 2.0 <= found["latency"].high
    assert found["latency"].value == pytest.approx(np.mean(timing.samples_ms))
    assert found["latency_median"].value == pytest.approx(np.median(timing.samples_ms))
    assert found["latency_p90"].value == pytest.approx(np.quantile(timing.samples_ms, 0.9))
    assert found["latency"].conditions == {"format": "dwn", "batch": 4}
    assert found["latency_p90"].conditions["level"] == pytest.approx(1 - 0.9**30, abs=0.02)  # 30 runs: no upper bound


def test_an_interval_that_could_not_become_narrow_says_so() -> None:
    runtime = FakeRuntime(noise=1.0)
    protocol = LatencyProtocol(max_repeats=50, level=0.9)
    timing = time_session(session_of(runtime), (np.zeros(1),), protocol, clock=runtime.clock)
    for measurement in measure_latency(SUBJECT, timing):
        assert measurement.conditions["unstable"] == "yes"
        assert measurement.conditions["stopped_by"] == "repeats"
        assert measurement.conditions["level"] <= 0.9


@pytest.mark.parametrize(("noise", "is_stable"), [(0.02, True), (1.0, False)])
def test_the_speedup_of_two_sessions(noise: float, is_stable: bool) -> None:
    clock = FakeClock()
    slow, fast = (FakeRuntime(latency_ms=ms, noise=noise, clock=clock, seed=i) for i, ms in enumerate((6.0, 2.0)))
    protocol = LatencyProtocol(max_repeats=30)
    loads = (lambda: slow.load(ANY_FILE), lambda: fast.load(ANY_FILE))
    both = compare_loads(loads, (np.zeros(1),), protocol, clock=clock)
    speedup = measure_speedup(SUBJECT, both, baseline="d" * 64, batch=2)
    assert speedup.low <= 3.0 <= speedup.high
    assert speedup.protocol == "latency, interleaved"
    assert ("unstable" not in speedup.conditions) is is_stable
    assert speedup.conditions["baseline"] == "d" * 64


def test_the_garbage_collector_rests_while_time_is_taken() -> None:
    states: list[bool] = []

    def watch(x: Array) -> tuple[Array, ...]:
        states.append(gc.isenabled())
        return (x,)

    runtime = FakeRuntime(outputs=watch)
    time_session(session_of(runtime), (np.zeros(1),), LatencyProtocol(), clock=runtime.clock)
    assert not any(states)
    assert gc.isenabled()


# Parity


@given(st.floats(0, 1), st.floats(1e-3, 1e3))
def test_parity_is_the_largest_difference(difference: float, scale: float) -> None:
    reference = scale * np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    outputs = reference.copy()
    outputs[1, 2] -= difference * scale
    found = named(measure_parity(SUBJECT, (reference,), (outputs,), bound=0.1))
    assert found["parity"].value == pytest.approx(difference * scale)
    assert found["parity"].conditions["bound"] == pytest.approx(0.1 * scale)
    if abs(difference - 0.1) > 1e-6:
        assert found["parity"].conditions["within_bound"] == ("yes" if difference < 0.1 else "no")
    assert found["top1_agreement"].n == 2


def test_top1_agreement_counts_equal_answers() -> None:
    reference, outputs = one_hot(np.array([0, 1, 2, 3])), one_hot(np.array([0, 1, 2, 4]))
    assert named(measure_parity(SUBJECT, (reference,), (outputs,), bound=1))["top1_agreement"].value == 0.75
    assert len(measure_parity(SUBJECT, (reference[:, :1],), (outputs[:, :1],), bound=1)) == 1


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((np.zeros((2, 4)),), r"answers with shapes \[\(2, 4\)\], our model with \[\(2, 3\)\]"),
        ((np.zeros((2, 3)), np.zeros((2, 3))), "answers with shapes"),
        ((np.full((2, 3), np.nan),), "the exported file answers the example with NaN"),
    ],
)
def test_outputs_that_cannot_be_compared_are_an_error(outputs: tuple[Array, ...], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        measure_parity(SUBJECT, (np.ones((2, 3)),), outputs, bound=1)


# Measurements


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"value": float("nan")}, "is not a measurement"), ({"n": 0}, "is not a measurement"),
     ({"value": 3.0}, "lies outside its interval"), ({"artifact": ""}, "belongs to a file")],
)  # fmt: skip
def test_a_number_that_is_no_measurement_is_refused(wrong: dict[str, object], message: str) -> None:
    fields = {"metric": TOP1.metric, "value": 1.0, "low": 0.0, "high": 2.0, "n": 1, "artifact": "a", "runtime": "r",
              "machine": "m", "protocol": "p"}  # fmt: skip
    with pytest.raises(MeasurementError, match=message):
        Measurement(**{**fields, **wrong})  # type: ignore[arg-type]


def test_an_exact_number_has_no_width() -> None:
    assert exactly(3.0) == exactly(3.0, n=1)
    assert exactly(3.0).low == exactly(3.0).high == 3.0
