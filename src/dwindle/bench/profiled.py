"""This file profiles a file of any format: where its time goes, and what it multiplies with, in one value."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dwindle.artifact import Artifact
from dwindle.bench.any_file import Source, artifact_at, timed_inputs
from dwindle.bench.layer_facts import FileFacts, facts_of
from dwindle.bench.measure import open_file
from dwindle.bench.plan import Plan
from dwindle.bench.probes.operator_times import OperatorProfile, measure_operators, unavailable
from dwindle.errors import RuntimeUnavailableError
from dwindle.runtimes.catalogue import engine_for
from dwindle.runtimes.protocol import Array, Runtime

N_RUNS: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiled:
    """A file and its profile.

    Attributes:
        name: of the file, without its folder.
        size_bytes: on disk.
        profile: where the time of a call goes.
        facts: what its layers multiply with; None where only its own engine can open it.
    """

    name: str
    size_bytes: int
    profile: OperatorProfile
    facts: FileFacts | None = None


def profile_file(
    path: Path,
    *,
    source: Source | None = None,
    engine: Runtime | None = None,
    n_runs: int = N_RUNS,
    n_threads: int = 1,
) -> Profiled:
    """Profile the file at `path`, on the first engine for its format where none is given.

    Raises:
        SettingError: runs or threads that cannot work.
        RuntimeUnavailableError: no engine for its format is installed, or the engine does not tell its times.
        MeasurementError: the file cannot be loaded or run.
        DataError: inputs that are missing or that the file cannot run.
    """
    artifact = artifact_at(path)
    engine = engine or engine_for(artifact.format)
    if reason := unavailable(engine):
        raise RuntimeUnavailableError(f"{path.name}: {reason}")
    with ExitStack() as stack:
        opened = open_file(stack, artifact, engine, plan=Plan(n_threads=n_threads, latency=None))
        inputs = timed_inputs(opened, source or Source())
    return profile_artifact(artifact, inputs, engine, n_runs=n_runs, n_threads=n_threads)


def profile_artifact(
    artifact: Artifact, inputs: tuple[Array, ...], engine: Runtime, *, n_runs: int = N_RUNS, n_threads: int = 1
) -> Profiled:
    """Profile a file on inputs that it takes.

    Raises:
        SettingError: runs or threads that cannot work.
        RuntimeUnavailableError: the engine does not tell its times.
        MeasurementError: the file cannot be loaded or run.
    """
    return Profiled(
        name=artifact.path.name,
        size_bytes=artifact.size_bytes,
        profile=measure_operators(artifact, inputs, engine, n_runs=n_runs, n_threads=n_threads),
        facts=facts_of(artifact),
    )
