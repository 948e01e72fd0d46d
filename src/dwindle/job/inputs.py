"""This file takes from a job's data what techniques are offered: an example, calibration inputs, the context."""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch.utils.data import Dataset, Subset

from dwindle.job.job import Examples, Job
from dwindle.network.batches import Batches
from dwindle.network.inputs import Inputs
from dwindle.network.train import Progress
from dwindle.technique import Context

BATCH_SIZE: Final = 256


def context_of(job: Job, report_progress: Progress | None = None) -> Context:
    """Return what the steps of the job's recipe are offered."""
    return Context(
        seed=job.seed,
        example=first_inputs(job.data.train, 2),
        calibration=calibration_inputs(job.data.train, n=job.n_calibration, seed=job.seed),
        trainer=job.trainer,
        teacher=job.network,
        networks=job.networks,
        early=job.early,
        workdir=job.out / "work",
        report_progress=report_progress,
    )


def calibration_inputs(train: Examples, *, n: int, seed: int) -> list[Inputs]:
    """Return the inputs of `n` training examples drawn at random, in batches."""
    order = torch.randperm(length(train), generator=torch.Generator().manual_seed(seed))
    chosen: Examples = Subset(train, order[:n].tolist())
    return [inputs for inputs, _ in Batches(data=chosen, batch_size=BATCH_SIZE, what="calibration").ordered()]


def first_inputs(data: Examples, n: int) -> Inputs:
    """Return the inputs of the first `n` examples, each (n, ...)."""
    return Batches(data=data, batch_size=n).first(n)[0]


def length(data: Dataset[Any]) -> int:
    """Return the number of examples."""
    return len(cast("Any", data))
