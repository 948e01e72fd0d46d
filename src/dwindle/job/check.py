"""This file finds what is wrong with a job before any work is done: hours of training must not end in a wrong label."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dwindle.bench.batches import as_arrays
from dwindle.bench.budget import Budget
from dwindle.bench.deployment import obstacles_to
from dwindle.bench.measurement import ARENA, CPU_TIME, ENERGY, LOAD_TIME, MEMORY_ADDED, MEMORY_PEAK, THROUGHPUT
from dwindle.bench.probes.planned_memory import READERS
from dwindle.bench.probes.scores import (
    SCORES,
    TOP1,
    TOP5,
    AnyScore,
    MeansScore,
    Score,
    SetScore,
    classification,
    drop_of,
)
from dwindle.errors import DataError, DwindleError, ExportError, RecipeError, SettingError
from dwindle.exporters.options import OPSETS
from dwindle.exporters.preprocessing import Preprocessing
from dwindle.job.inputs import BATCH_SIZE, context_of, first_inputs, length
from dwindle.job.job import Job
from dwindle.job.losses import LOSSES
from dwindle.network.batches import (
    IGNORED_LABEL,
    Batches,
    all_targets,
    are_classes,
    require_finite,
    require_labels,
    try_first_batch,
    try_loss,
)
from dwindle.network.compressed import CompressedModel
from dwindle.network.distillation import Distillation
from dwindle.network.inputs import Targets, as_inputs, describe
from dwindle.network.two_classes import as_scores
from dwindle.recipe.plain import describe_step
from dwindle.runtimes.protocol import Array
from dwindle.technique import Needs

TOP5_CLASSES: Final = 5
_FIRST_ONLY: Final = "the drop is measured in the first metric, so put that metric first"
N_RAW: Final = 64
"""Test inputs on which preprocessing is tried."""


def check_job(job: Job) -> None:
    """Find whatever can be found wrong before any work.

    Raises:
        DwindleError: an empty data set, rejected inputs, labels out of range, a loss or metric that does not fit the
            answers, NaN weights, a format that cannot be written here, a recipe that cannot run.
    """
    trains = any(Needs.TRAINING in step.needs for step in job.recipe.steps)
    for part in ("train", "validation", "test"):
        _check_split(job, part, trains=trains)
    _check_distillation(job)
    if job.budget is not None:
        _check_budget(job, job.budget)
    _check_formats(job)
    if (size := job.export.batch_size) is not None and length(job.data.test) < size:
        raise DataError(
            f"{job.data.name}: the files take {size} examples at a time and the test split holds "
            f"{length(job.data.test)}; give more, or a smaller batch_size"
        )
    if job.export.preprocessing is not None:
        _check_preprocessing(job, job.export.preprocessing)
    if problems := job.recipe.check(context_of(job), model=CompressedModel.dense(job.network)):
        raise RecipeError("the recipe cannot run:\n" + "\n".join(f"- {problem}" for problem in problems))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Probe:
    """What the network answers to the first examples of a split, and what it should."""

    output: Any
    targets: Targets
    where: str

    @property
    def words(self) -> str:
        tensors = as_inputs(self.output)
        shapes = type(self.output).__name__ if tensors is None else describe(tensors)
        return f"outputs {shapes} and targets {describe(self.targets)}"


def _check_split(job: Job, part: str, *, trains: bool) -> None:
    data, task = getattr(job.data, part), job.task
    if length(data) == 0:
        raise DataError(f"{job.data.name}: the {part} split is empty; give at least one example")
    batches = Batches(data=data, batch_size=BATCH_SIZE, what=part)
    output = try_first_batch(job.network, batches, torch.device("cpu"))
    probe = _Probe(output=output, targets=batches.first(2)[1], where=f"{job.data.name}, {part} split")
    scores = as_scores(output, task.threshold)
    require_finite(batches, also_targets=any(SCORES.get(score.metric.name) for score in task.scores))
    if task.is_default and not are_classes(scores, probe.targets):
        raise DataError(_not_classes(probe))
    counts_classes = task.counts_classes or (trains and task.loss is functional.cross_entropy)
    if counts_classes and are_classes(scores, probe.targets):
        every = all_targets(batches)
        labels = batches.first(2)[1] if every is None else every
        require_labels(labels, scores.shape[1], part)
        is_scored = part == "test" and task.counts_classes
        if is_scored and isinstance(labels, Tensor) and bool(labels.eq(IGNORED_LABEL).any()):
            raise DataError(
                f"{probe.where}: labels hold {IGNORED_LABEL}, which a loss leaves out and a metric of classes cannot; "
                "leave these examples out"
            )
    if trains:
        try_loss(task.loss, output, probe.targets, what=part)
    for score in task.scores:
        _try_score(score, replace(probe, output=scores) if _is_of_classes(score) else probe)
    if task.scores[0] is TOP5 and scores.shape[1] <= TOP5_CLASSES:
        raise DataError(
            f"{probe.where}: top-5 accuracy of {scores.shape[1]} classes is always 1; name another metric first"
        )


def _check_distillation(job: Job) -> None:
    """Refuse to compare as probabilities of classes what the loss takes for something else."""
    losses = {loss: name for name, loss in LOSSES.items() if loss is not functional.cross_entropy}
    for number, step in enumerate(job.recipe.steps, start=1):
        distillation = getattr(step, "distillation", None)
        if not isinstance(distillation, Distillation) or distillation.one_output is not None:
            continue
        if distillation.alpha < 1 and job.task.loss in losses:
            raise SettingError(
                f"step {number}, {describe_step(step)}, compares probabilities of classes, and the loss of this job is "
                f"{losses[job.task.loss]}; learn from hints alone (alpha = 1), say what one output is (one_output), or "
                "leave distillation out"
            )


def _check_budget(job: Job, budget: Budget) -> None:
    """Refuse bounds on what the job does not measure: the verdict could only be that nothing is known."""
    named = {score.metric.name for score in job.task.scores}
    remedies = {drop_of(score.metric).name: _FIRST_ONLY for score in (*SCORES.values(), *job.task.scores)}
    remedies |= {name: f'name it: [[task.metrics]] with name = "{name}"' for name in SCORES if name not in named}
    remedies.pop(drop_of(job.task.metric).name, None)
    remedies |= _remedies_for_costs(job)
    for name in budget.bounds:
        if name in remedies:
            raise SettingError(f"the budget bounds {name}, which this job does not measure; {remedies[name]}")


def _remedies_for_costs(job: Job) -> dict[str, str]:
    """Return how to measure those costs of a file that the job does not measure."""
    asked = {
        MEMORY_PEAK.name: (job.measures_memory, "memory = true"),
        MEMORY_ADDED.name: (job.measures_memory, "memory = true"),
        ENERGY.name: (job.measures_energy, "energy = true"),
        ARENA.name: (job.measures_arena or job.measures_memory, "arena = true"),
        CPU_TIME.name: (job.measures_cpu_time, "cpu_time = true"),
        THROUGHPUT.name: (job.throughput_batch is not None, "throughput_batch = 32, say"),
    }
    remedies = {name: f"[output] with {setting}" for name, (is_asked, setting) in asked.items() if not is_asked}
    remedies[LOAD_TIME.name] = "measure it with dwindle bench, and leave the bound out"
    if READERS.keys().isdisjoint(job.formats):
        planned = " or ".join(f'"{name}"' for name in READERS)
        remedies[ARENA.name] = f"an engine plans it for {planned}: add one to formats, an estimate decides nothing"
    return remedies


def _check_formats(job: Job) -> None:
    """Refuse formats that would fail after all the work, as far as the dense network tells."""
    dense = CompressedModel.dense(job.network)
    found = obstacles_to(dense, job.formats, options=job.export)
    beside = obstacles_to(dense, ("onnx",), options=replace(job.export, float_type="float32")).get("onnx")
    found |= {"dense.onnx, which they are compared with": beside} if beside else {}
    if not found and job.export.opset < OPSETS[-1]:
        found |= _of_the_opset(dense, job)
    if found:
        listed = "\n".join(f"- {name}: {reason}" for name, reasons in found.items() for reason in reasons)
        raise ExportError(f"files that this job asks for cannot be written:\n{listed}\nmend it, or change its formats")


def _of_the_opset(dense: CompressedModel, job: Job) -> dict[str, list[str]]:
    """Return what the dense graph has that an older opset lacks; compression adds nothing that only newer ones have."""
    from dwindle.exporters.graph import build_graph  # onnx is heavy and optional

    try:
        build_graph(dense, first_inputs(job.data.test, job.export.batch_size or 2), options=job.export)
    except ExportError as error:
        return {"every file": [str(error)]}
    return {}


def _check_preprocessing(job: Job, preprocessing: Preprocessing) -> None:
    """Refuse preprocessing that no raw input could have come through to become the data."""
    inputs = first_inputs(job.data.test, N_RAW)
    where = f"{job.data.name}, preprocessing"
    if not isinstance(inputs, Tensor):
        raise DataError(f"{where}: it needs a network with one input, this one has {len(inputs)}; do it in the data")
    if not inputs.is_floating_point():
        raise DataError(f"{where}: it gives float32, this network takes {describe(inputs)}; leave it out")
    (ready,) = as_arrays(inputs)
    try:
        gap = np.abs(preprocessing.apply(preprocessing.raw(ready)) - ready)
    except ValueError as error:
        raise DataError(f"{where}: mean and std do not fit inputs {describe(inputs)} ({error})") from error
    step = abs(preprocessing.scale) / min(preprocessing.std) if preprocessing.is_uint8 else 0.0
    allowed = 0.51 * step + 1e-3 * max(1.0, float(np.abs(ready).max()))
    if float(gap.max()) > allowed:
        raise DataError(
            f"{where}: the test inputs lie up to {float(gap.max()):.3g} beyond what scale, mean and std make of raw "
            "inputs; give those that the data were preprocessed with"
        )


def _not_classes(probe: _Probe) -> str:
    """Say what a job is about where nobody said otherwise: the messages of a loss would lead astray."""
    return (
        f"{probe.where}: a job is about classes unless it says otherwise, so it needs scores (batch, classes) and "
        f"class numbers (batch,); got {probe.words}; for another task name its loss and metrics: [task] with loss = "
        '"mse", and [[task.metrics]] with name = "mean_absolute_error" or a function of your own'
    )


def _is_of_classes(score: AnyScore) -> bool:
    """Return whether a metric compares class numbers: one output is two classes to it."""
    return isinstance(score, SetScore) or score in {TOP1, TOP5}


def _try_score(score: AnyScore, probe: _Probe) -> None:
    name, outputs = score.metric.name, as_inputs(probe.output)
    if outputs is None:
        raise DataError(f"{probe.where}: got {probe.words}; return a tensor or a tuple of tensors")
    answers, truth = as_arrays(outputs), as_arrays(probe.targets)
    given: list[Any] = [part[0] if len(part) == 1 else part for part in (answers, truth)]
    try:
        if isinstance(score, SetScore):
            classification(*given)
            return
        values = np.asarray(score.per_example(*given))
    except DwindleError as error:
        raise DataError(f"{probe.where}: {error}") from error
    except Exception as error:  # a user's own code
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{probe.where}: the metric {name} rejects {probe.words}: {reason}") from error
    n = len(truth[0])
    n_axes = 1 + isinstance(score, MeansScore)
    if (
        values.shape[:1] != (n,)
        or values.ndim != n_axes
        or values.dtype.kind not in "biuf"
        or not np.isfinite(values).all()
    ):
        raise DataError(
            f"{probe.where}: the metric {name} gave {values.dtype} of shape {values.shape} for {n} examples "
            f"({probe.words}); it must return one finite value for each example"
        )
    if score.metric.unit == "fraction" and not ((values >= 0) & (values <= 1)).all():
        raise DataError(
            f"{probe.where}: the metric {name} gave {values.tolist()}, but its unit is a fraction; name its unit in "
            '[[task.metrics]], for example unit = "mm"'
        )
    if isinstance(score, Score) and not _is_paired(score, answers, truth, values=values):
        raise DataError(
            f"{probe.where}: the metric {name} gives an example another value when its neighbours are others "
            f"({probe.words}); compare each answer with its own target only: where shapes differ, give both one shape, "
            "for example targets.reshape(outputs.shape)"
        )


def _is_paired(score: Score, answers: tuple[Array, ...], truth: tuple[Array, ...], *, values: Array) -> bool:
    """Return whether each example keeps its value where the batch holds nothing but that example, twice."""
    for i, value in enumerate(values):
        given: list[Any] = [tuple(array[[i, i]] for array in part) for part in (answers, truth)]
        try:
            twice = np.asarray(score.per_example(*(part[0] if len(part) == 1 else part for part in given)))
        except Exception:  # ruff: ignore[blind-except] - a user's own code may need examples that differ
            return True
        if not np.allclose(twice.astype(np.float64), float(value), rtol=1e-3, atol=1e-6):
            return False
    return True
