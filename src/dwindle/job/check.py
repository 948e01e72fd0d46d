"""This file finds what is wrong with a job before any work is done: hours of training must not end in a wrong label."""

from __future__ import annotations

import torch
from torch import Tensor

from dwindle.errors import DataError, RecipeError
from dwindle.job.inputs import BATCH_SIZE, context_of, length
from dwindle.job.job import Job
from dwindle.network.batches import Batches, all_targets, are_classes, require_labels, try_first_batch
from dwindle.network.compressed import CompressedModel


def check_job(job: Job) -> None:
    """Find whatever can be found wrong before any work.

    Raises:
        DwindleError: an empty data set, rejected inputs, labels out of range, NaN weights, a recipe that cannot run.
    """
    for part in ("train", "validation", "test"):
        _check_split(job, part)
    if problems := job.recipe.check(context_of(job), model=CompressedModel.dense(job.network)):
        raise RecipeError("the recipe cannot run:\n" + "\n".join(f"- {problem}" for problem in problems))


def _check_split(job: Job, part: str) -> None:
    data = getattr(job.data, part)
    if length(data) == 0:
        raise DataError(f"{job.data.name}: the {part} split is empty; give at least one example")
    batches = Batches(data=data, batch_size=BATCH_SIZE, what=part)
    output = try_first_batch(job.network, batches, torch.device("cpu"))
    targets = all_targets(batches)
    probe = batches.first(2)[1] if targets is None else targets
    if not are_classes(output, probe):
        shapes = f"outputs {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise DataError(
            f"{job.data.name}, {part} split: a job measures accuracy, so it needs scores (batch, classes) and class "
            f"numbers (batch,); got {shapes} and {probe.dtype} targets {tuple(probe.shape)}; for other tasks call "
            "dwindle.measure with a metric of your own"
        )
    require_labels(probe, output.shape[1], part)
