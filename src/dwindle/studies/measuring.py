"""This file measures the files of one outcome: how large they are, what they answer, and how long that takes."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from dwindle.artifact import Artifact
from dwindle.bench.batches import as_arrays, batches
from dwindle.bench.costs import Opened, costs_alone, costs_in_turn
from dwindle.bench.deployment import Deployment
from dwindle.bench.energy.estimate import estimated_energy
from dwindle.bench.energy.find import find_sensors
from dwindle.bench.measure import open_file
from dwindle.bench.measurement import ACCURACY, TEST_CPU_TIME, Measurement
from dwindle.bench.plan import Plan
from dwindle.bench.probes import accuracy
from dwindle.bench.probes.operator_times import OperatorProfile, measure_operators
from dwindle.bench.probes.scores import CLASSIFICATION, scores_named
from dwindle.bench.probes.size import measure_size
from dwindle.bench.probes.whole_set import TimedSession, measure_whole_set
from dwindle.bench.probes.zipped import measure_zipped_size
from dwindle.bench.protocol import LatencyProtocol
from dwindle.errors import MeasurementError
from dwindle.job.inputs import first_inputs
from dwindle.job.job import Data
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.studies.study import Measures

BATCH_SIZE: Final = 64
"""Examples in a call where calls are not timed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What was measured of the files of an outcome.

    Attributes:
        right: (n,) whether the answer to each example of the test split is right.
        profile: share of each class of operations in the time of a call, where the `.onnx` was profiled.
        estimated_energy_mj: of one call, where it was asked for and no sensor measured it.
    """

    measurements: tuple[Measurement, ...]
    right: npt.NDArray[np.bool_]
    profile: OperatorProfile | None = None
    estimated_energy_mj: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """How the files of an outcome are measured.

    Attributes:
        n_threads: of the engine.
        dense: the file to time the `.onnx` in turn with; None: it is not.
        seconds: how long each of the two is timed.
        threshold: above it one output names the second of two classes; None: each class has an output of its own.
        measures: what is measured beside size, answers and speed.
    """

    n_threads: int = 1
    dense: Artifact | None = None
    seconds: float = 0.0
    threshold: float | None = None
    measures: Measures = field(default_factory=Measures)

    def measure(self, deployment: Deployment, data: Data) -> Found:
        """Return the sizes of all files of `deployment`, and what the `.onnx`, else the `.dwn`, answers.

        The `.onnx` answers one example at a time, and each call is timed.

        Raises:
            MeasurementError: answers that are not finite, a file that has changed.
            DataError: data that the file cannot run.
        """
        files = deployment.artifacts
        sizes = [m for file in files.values() for m in measure_size(file, n_dense_weights=deployment.n_dense_weights)]
        onnx = files.get("onnx")
        if onnx is None:
            (file,) = files.values()
            scores = self._answers(file, data)
            return replace(scores, measurements=(*sizes, *deployment.parity, *scores.measurements))
        scores = self._timed_answers(onnx, data) if self.measures.whole_set else self._answers(onnx, data)
        has_sensor = self.measures.energy and bool(find_sensors())
        costs = (*self._speed(onnx, data), *self._resources(onnx, data, energy=has_sensor))
        others = (measure_zipped_size(onnx), *deployment.parity, *scores.measurements, *costs)
        return replace(
            scores,
            measurements=(*sizes, *others),
            profile=self._profile(onnx, data),
            estimated_energy_mj=_estimated_energy(onnx) if self.measures.energy and not has_sensor else None,
        )

    def _answers(self, file: Artifact, data: Data) -> Found:
        plan = self._plan(BATCH_SIZE)
        with ExitStack() as stack:
            side = open_file(stack, file, OnnxRuntime(), plan=plan)
            every = batches(cast("Any", data.test), batch_size=plan.batch_size)
            (answers,) = accuracy.answer(
                [(file.path.name, side.session)], every, scores=plan.scores, threshold=plan.threshold
            )
        return Found(measurements=accuracy.measure_accuracy(side.subject, answers), right=answers.values[ACCURACY])

    def _timed_answers(self, file: Artifact, data: Data) -> Found:
        plan = self._plan(1)
        with ExitStack() as stack:
            side = open_file(stack, file, OnnxRuntime(), plan=plan)
            side.session.run(*as_arrays(first_inputs(data.test, 1)))  # the first call reserves memory
            timed = TimedSession(side.session)
            every = batches(cast("Any", data.test), batch_size=plan.batch_size)
            (answers,) = accuracy.answer([(file.path.name, timed)], every, scores=plan.scores, threshold=plan.threshold)
        scores = accuracy.measure_accuracy(side.subject, answers)
        time = measure_whole_set(side.subject, timed.seconds, batch=plan.batch_size)
        cpu = measure_whole_set(side.subject, timed.cpu_seconds, batch=plan.batch_size, metric=TEST_CPU_TIME)
        return Found(measurements=(*scores, time, cpu), right=answers.values[ACCURACY])

    def _speed(self, file: Artifact, data: Data) -> tuple[Measurement, ...]:
        """Return latency, and speed-up over the dense file, timed in turn."""
        if self.dense is None:
            return ()
        plan = Plan(n_threads=self.n_threads, latency=LatencyProtocol(seconds=self.seconds))
        inputs = {1: as_arrays(first_inputs(data.test, 1))}
        with ExitStack() as stack:
            sides: tuple[Opened, Opened] = (
                open_file(stack, file, OnnxRuntime(), plan=plan),
                open_file(stack, self.dense, OnnxRuntime(), plan=plan),
            )
            ours, _ = costs_in_turn(sides, inputs, plan)
        return ours.measurements

    def _plan(self, batch_size: int) -> Plan:
        further = scores_named(self.measures.scores) if self.measures.scores else ()
        return Plan(
            n_threads=self.n_threads,
            batch_size=batch_size,
            threshold=self.threshold,
            scores=(*CLASSIFICATION, *further),
        )

    def _resources(self, file: Artifact, data: Data, *, energy: bool) -> tuple[Measurement, ...]:
        """Return memory, where it is asked for, and `energy`."""
        if not (self.measures.memory or energy):
            return ()
        plan = Plan(n_threads=self.n_threads, latency=None, memory=self.measures.memory, energy=energy)
        inputs = {1: as_arrays(first_inputs(data.test, 1))}
        with ExitStack() as stack:
            return costs_alone(open_file(stack, file, OnnxRuntime(), plan=plan), inputs, plan).measurements

    def _profile(self, file: Artifact, data: Data) -> OperatorProfile | None:
        n_runs = int(self.measures.profile_runs)
        if not n_runs:
            return None
        inputs = as_arrays(first_inputs(data.test, 1))
        return measure_operators(file, inputs, OnnxRuntime(), n_runs=n_runs, n_threads=self.n_threads)


def _estimated_energy(file: Artifact) -> float | None:
    try:
        return estimated_energy(file.path).estimate.value
    except MeasurementError:  # a shape that does not follow from the graph: nothing to state, nothing lost
        return None
