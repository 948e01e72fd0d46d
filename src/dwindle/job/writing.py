"""This file writes the files of a job, and the dense file beside them; a format that fails does not take the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from dwindle.artifact import Artifact, files_of
from dwindle.bench.deployment import Deployment, deploy
from dwindle.bench.measurement import TOP1_AGREEMENT
from dwindle.errors import DwindleError, ExportError
from dwindle.exporters.graph_cache import GraphCache
from dwindle.job.inputs import first_inputs
from dwindle.job.job import COMPARED, Job
from dwindle.network.compressed import CompressedModel
from dwindle.network.inputs import Inputs

N_PARITY: Final = 64
"""Examples on which parity is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What came of writing.

    Attributes:
        reference: the dense file, that the others are compared with.
        failed: format -> why there is no such file.
    """

    deployment: Deployment
    reference: Artifact
    failed: Mapping[str, str] = field(default_factory=dict[str, str])


def write_files(job: Job, model: CompressedModel, baseline: CompressedModel) -> Written:
    """Write `model` in each format of `job`, and `baseline` as the dense file.

    Raises:
        DwindleError: the dense file, or every file that could be compared with it, cannot be written.
    """
    example, graphs = first_inputs(job.data.test, N_PARITY), GraphCache()
    deployment, failed = _deploy(job, model, example, graphs=graphs)
    if not job.task.counts_classes:  # the largest of several outputs is no answer then
        parity = tuple(m for m in deployment.parity if m.metric != TOP1_AGREEMENT)
        deployment = replace(deployment, parity=parity)
    options = replace(job.export, float_type="float32")  # it takes the same inputs, and stays what it is
    dense = deploy(baseline, example, job.out, formats=("onnx",), options=options, name="dense", graphs=graphs)
    return Written(deployment=deployment, reference=dense.artifacts["onnx"], failed=failed)


def _deploy(
    job: Job, model: CompressedModel, example: Inputs, *, graphs: GraphCache
) -> tuple[Deployment, dict[str, str]]:  # fmt: skip
    """Return the files in all formats; where these cannot be had together, each that can be had alone."""

    def write(*formats: str) -> Deployment:
        options, metadata = job.export, _metadata(job)
        return deploy(model, example, job.out, formats=formats, options=options, metadata=metadata, graphs=graphs)

    try:
        return write(*job.formats), {}
    except DwindleError:
        if len(job.formats) == 1:
            raise
    made: list[Deployment] = []
    failed: dict[str, str] = {}
    for name in job.formats:
        try:
            made.append(write(name))
        except DwindleError as error:
            failed[name] = str(error).removeprefix("the model cannot be written: ").removeprefix(f"{name}: ")
            for file in files_of(job.out / f"model.{name}"):
                file.unlink(missing_ok=True)  # of an earlier run, or one whose parity nobody knows
    if not COMPARED & (set(job.formats) - failed.keys()):
        raise ExportError("the model cannot be written: " + "; ".join(f"{n}: {why}" for n, why in failed.items()))
    artifacts = {name: artifact for one in made for name, artifact in one.artifacts.items()}
    return replace(made[0], artifacts=artifacts, parity=tuple(m for one in made for m in one.parity)), failed


def _metadata(job: Job) -> dict[str, Any]:
    return {**job.metadata, "name": job.name, "class_names": list(job.data.class_names)}
