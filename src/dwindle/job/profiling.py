"""This file profiles the dense and the compressed file of a job, and writes both profiles to its ledger."""

from __future__ import annotations

from typing import Final

from dwindle.artifact import Artifact
from dwindle.bench.batches import batches
from dwindle.bench.deployment import Deployment
from dwindle.bench.ledger import Ledger
from dwindle.bench.measure import Measured
from dwindle.bench.measurement import LATENCY_MEDIAN
from dwindle.bench.profiled import N_RUNS, profile_artifact
from dwindle.errors import DwindleError
from dwindle.job.job import Job
from dwindle.job.measuring import as_files_take
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.settings import TAG, to_plain

SECONDS: Final = 0.5
"""For the calls of one file, profiled and not; a slow network is called less often."""
LEAST_RUNS: Final = 5
PROFILE: Final = "profile"


def profile_files(job: Job, ledger: Ledger, deployment: Deployment, *, reference: Artifact, measured: Measured) -> None:
    """Profile the first file that onnxruntime loads, and the dense one; what cannot be profiled is told in its entry.

    A profile explains figures that stand in the ledger already, so none of its failures ends a job.
    """
    engine = OnnxRuntime()
    files = [file for file in deployment.artifacts.values() if file.format in engine.formats]
    if not files or engine.unavailable():
        return
    size = job.plan.latency_batch
    first = next(iter(batches(as_files_take(job.data.test, job.export), batch_size=size)))
    inputs = first.head(size).inputs
    runs = _n_runs(measured)
    for role, artifact in (("dense", reference), ("compressed", files[0])):
        try:
            plain = to_plain(profile_artifact(artifact, inputs, engine, n_runs=runs))
        except DwindleError as error:
            plain = {"problem": str(error)}
        ledger.append(PROFILE, {"role": role, **{key: value for key, value in plain.items() if key != TAG}})


def _n_runs(measured: Measured) -> int:
    """Return how many calls fit into the time, by the slowest median that was measured."""
    sides = (measured, *((measured.dense,) if measured.dense else ()))
    medians = [m.value for side in sides for m in side.measurements if m.metric == LATENCY_MEDIAN]
    slowest_ms = max(medians, default=0.0)
    return N_RUNS if slowest_ms <= 0 else max(LEAST_RUNS, min(N_RUNS, int(SECONDS * 1e3 / 2 / slowest_ms)))
