"""This file runs a job: baseline, recipe, files, measurements, report; every fact goes to the ledger as it is found."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dwindle.artifact import Artifact
from dwindle.bench.budget import Verdict
from dwindle.bench.deployment import Deployment
from dwindle.bench.ledger import Ledger
from dwindle.bench.machine import this_machine
from dwindle.bench.measure import Measured
from dwindle.container.inspect import inspect_file
from dwindle.errors import LedgerError
from dwindle.job.check import check_job
from dwindle.job.control import control_recipe
from dwindle.job.estimating import estimate_files
from dwindle.job.inputs import context_of, first_inputs, length
from dwindle.job.job import Job
from dwindle.job.judging import Judgement, judge_job
from dwindle.job.measuring import measure_files
from dwindle.job.profiling import profile_files
from dwindle.job.summary import summarize
from dwindle.job.tensors import tensor_entries
from dwindle.job.writing import write_files
from dwindle.network.compressed import CompressedModel
from dwindle.network.inputs import as_tuple
from dwindle.network.train import Progress
from dwindle.recipe import Recipe, Stage
from dwindle.recipe.named import student_of
from dwindle.recipe.plain import describe_step
from dwindle.report.page import write_report
from dwindle.version import VERSION
from dwindle.whole_file import write_whole


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What a job led to: the compressed model, its files, what was measured, and the summary in plain values.

    Attributes:
        failed: format -> why there is no such file, though the job asks for it.
    """

    model: CompressedModel
    deployment: Deployment
    measured: Measured
    report: Path
    summary: Mapping[str, Any]
    verdict: Verdict | None
    failed: Mapping[str, str]


def run_job(job: Job, *, report_progress: Progress | None = None, started: float | None = None) -> Outcome:
    """Run `job` from its trained network to files, ledger, summary.json and report.html in `job.out`.

    Args:
        job: what to do.
        report_progress: called during the work.
        started: `time.perf_counter()` of what counts as the start, for the summary's `seconds`.

    Raises:
        DwindleError: whatever stops it; what was done is in the ledger and in the stage cache.
    """
    started = time.perf_counter() if started is None else started
    check_job(job)
    ledger = Ledger(job.out / "ledger.jsonl")
    context = context_of(job, report_progress)
    ledger.append("run", _describe(job))
    dense = CompressedModel.dense(job.network)

    def note(stage: Stage) -> None:
        ledger.append("stage", {**asdict(stage.record), "seconds": stage.seconds})

    model = job.recipe.run(dense, context, on_stage=note)
    baseline = control_recipe(job.recipe).run(dense, context) if job.baseline_trains_equally else dense
    _say(report_progress, "write the files", 0)
    written = write_files(job, model, baseline)
    _say(report_progress, "write the files", 1)
    _record_tensors(ledger, model, written.deployment)
    _say(report_progress, "measure the files", 0)
    measured, judgement = _measure(job, ledger, written.deployment, reference=written.reference)
    _say(report_progress, "measure the files", 1)
    verdict = None if judgement is None else judgement.verdict
    summary = summarize(measured, job.task, verdict=verdict, seconds=time.perf_counter() - started)
    judged = {} if judgement is None else {"budget_bounds": judgement.words, "budget_files": judgement.plain_files}
    failed = {"not_written": dict(written.failed)} if written.failed else {}
    summary = {**summary, **judged, **_deployed(job), **failed}
    ledger.append("summary", summary)
    _write(job.out / "summary.json", json.dumps(summary, indent=2) + "\n")
    _write(job.out / "recipe.toml", job.recipe.to_toml())
    report = write_report(ledger, job.out / "report.html")
    return Outcome(
        model=model,
        deployment=written.deployment,
        measured=measured,
        report=report,
        summary=summary,
        verdict=verdict,
        failed=written.failed,
    )


def _measure(
    job: Job, ledger: Ledger, deployment: Deployment, *, reference: Artifact
) -> tuple[Measured, Judgement | None]:  # fmt: skip
    """Return what was measured of the first file, and what came of the budget, if there is one."""
    every = measure_files(job, ledger, deployment, reference=reference)
    estimates = estimate_files(job, ledger, every, reference=reference)
    if job.profiles_operators:
        profile_files(job, ledger, deployment, reference=reference, measured=every[0])
    if job.budget is None:
        return every[0], None
    judgement = judge_job(job.budget, every, estimates)
    ledger.append("budget", judgement.to_plain())
    return every[0], judgement


def _record_tensors(ledger: Ledger, model: CompressedModel, deployment: Deployment) -> None:
    if "dwn" in deployment.artifacts:
        for entry in tensor_entries(model, inspect_file(deployment.artifacts["dwn"].path)):
            ledger.append("tensor", entry)


def _describe(job: Job) -> dict[str, Any]:
    data = job.data
    return {
        "name": job.name,
        "version": VERSION,
        "seed": job.seed,
        "recipe_toml": job.recipe.to_toml(),
        "baseline": _words(control_recipe(job.recipe)) if job.baseline_trains_equally else "the network as given",
        "machine": this_machine().to_plain(),
        "data": {
            "name": data.name,
            "n_train": length(data.train),
            "n_validation": length(data.validation),
            "n_test": length(data.test),
            **_input_shapes(job),
        },
        **({} if job.task.is_default else {"task": _task_words(job)}),
        "command": job.command,
        **_deployed(job),
    }


def _deployed(job: Job) -> dict[str, Any]:
    """Say which network the files hold where it is another than the dense one."""
    students = [name for step in job.recipe.steps if (name := student_of(step)) is not None]
    if not students:
        return {}
    student, dense = _network_words(job.networks[students[-1]]), _network_words(job.network)
    return {"deployed": f"the student {students[-1]!r} ({student}) in place of the dense network ({dense})"}


def _network_words(network: nn.Module) -> str:
    return f"{type(network).__name__} with {sum(p.numel() for p in network.parameters()):,} weights"


def _input_shapes(job: Job) -> dict[str, Any]:
    shapes = [list(tensor.shape[1:]) for tensor in as_tuple(first_inputs(job.data.test, 1))]
    return {"input_shape": shapes[0]} if len(shapes) == 1 else {"input_shapes": shapes}


def _task_words(job: Job) -> dict[str, Any]:
    loss = getattr(job.task.loss, "__name__", type(job.task.loss).__name__)
    return {"loss": loss, "metrics": [score.metric.name for score in job.task.scores]}


def _words(recipe: Recipe) -> str:
    steps = ", ".join(describe_step(step) for step in recipe.steps)
    return f"the dense network after as much training: {steps}" if steps else "the network as given"


def _say(report_progress: Progress | None, what: str, done: int) -> None:
    if report_progress is not None:
        report_progress(what, done, 1)


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise LedgerError(f"{path} cannot be written ({error.strerror}); make room or choose another folder") from error
