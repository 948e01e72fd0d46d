"""This file measures the files of a job on its test examples, in the form in which the files take them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

from torch.utils.data import Dataset

from dwindle.artifact import Artifact
from dwindle.bench.batches import Data, as_arrays
from dwindle.bench.deployment import Deployment
from dwindle.bench.energy.find import find_sensors
from dwindle.bench.ledger import Ledger
from dwindle.bench.measure import Measured, measure, record
from dwindle.bench.measurement import COMPRESSION_RATIO, SIZE
from dwindle.bench.probes.latency import IN_TURN
from dwindle.exporters.options import ExportOptions
from dwindle.job.inputs import BATCH_SIZE
from dwindle.job.job import Examples, Job
from dwindle.network.batches import Batches
from dwindle.network.inputs import n_examples
from dwindle.runtimes.catalogue import engine_for

BESIDE = "beside"
"""Condition of a time that a dense file took in turn with a compressed one: the sha256 of the latter."""


def measure_files(job: Job, ledger: Ledger, deployment: Deployment, *, reference: Artifact) -> tuple[Measured, ...]:
    """Measure the first file of onnxruntime in full; of the others what is their own: their answers and their speed.

    A dense file is timed anew beside each compressed one: what was timed in turn belongs together. A file of another
    engine is run by the first engine for it; where that does not load the dense file, this answers on onnxruntime, so
    that the drop is paired all the same, and nothing is timed in turn.
    """
    names, data = job.data.class_names, as_files_take(job.data.test, job.export)
    plan = replace(job.plan, energy=job.measures_energy and bool(find_sensors()))
    measured = _beside(measure(deployment, data, dense=reference, plan=plan))
    record(ledger, measured, class_names=names)
    every = [measured]
    for artifact in deployment.artifacts.values():
        if artifact == measured.artifacts[0]:
            continue
        engine = engine_for(artifact.format)
        found = _beside(measure(artifact, data, runtime=engine, dense=reference, plan=plan))
        own = tuple(m for m in found.measurements if m.metric not in {SIZE, COMPRESSION_RATIO})
        dense = None if found.dense is None else _only_times(found.dense)
        record(ledger, replace(found, measurements=own, confusion=None, dense=dense), class_names=names)
        every.append(found)
    return tuple(every)


def as_files_take(data: Examples, options: ExportOptions) -> Data:
    """Return `data`; raw inputs where the files preprocess them, whole batches where their batch size is fixed."""
    is_set = isinstance(cast("object", data), Dataset)  # a list of examples would be taken for a list of batches
    if options.preprocessing is None and options.batch_size is None and is_set:
        return data
    return _RawBatches(data, options)


@dataclass(frozen=True, slots=True, eq=False)
class _RawBatches:
    data: Examples
    options: ExportOptions

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        size, preprocessing = self.options.batch_size, self.options.preprocessing
        for inputs, targets in Batches(data=self.data, batch_size=size or BATCH_SIZE, what="test").ordered():
            if size is not None and n_examples(inputs) != size:
                continue  # an incomplete last batch, which the file refuses
            arrays = as_arrays(inputs)
            yield (arrays if preprocessing is None else tuple(map(preprocessing.raw, arrays))), targets


def _beside(measured: Measured) -> Measured:
    """Say of the dense file's times beside which file they were taken."""
    if measured.dense is None:
        return measured
    file = measured.artifacts[0].sha256
    noted = tuple(
        replace(m, conditions={**m.conditions, BESIDE: file}) if m.protocol == IN_TURN else m
        for m in measured.dense.measurements
    )
    return replace(measured, dense=replace(measured.dense, measurements=noted))


def _only_times(dense: Measured) -> Measured:
    times = tuple(m for m in dense.measurements if m.protocol == IN_TURN)
    return replace(dense, artifacts=(), measurements=times, samples=None, confusion=None)
