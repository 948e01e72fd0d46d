"""This file takes from a job's data what techniques are offered: an example, calibration inputs, the context."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch.utils.data import Dataset, Subset

from dwindle.job.job import Examples, Job
from dwindle.network.batches import Batches
from dwindle.network.inputs import Inputs
from dwindle.network.labelled import Labelled
from dwindle.network.train import Batch, Progress
from dwindle.technique import Context

BATCH_SIZE: Final = 256
N_VALIDATION: Final = 2048
"""Validation examples by which layers are judged."""


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
        validation=Labelled(
            batches=DrawnBatches(job.data.validation, N_VALIDATION, job.seed, "validation"),
            base_loss=job.task.loss,
        ),
        workdir=job.out / "work",
        report_progress=report_progress,
    )


@dataclass(frozen=True, slots=True, eq=False)
class DrawnBatches:
    """Batches of `n` examples of `data` drawn at random, the same ones each time; read only when they are wanted."""

    data: Examples
    n: int
    seed: int
    what: str

    def __iter__(self) -> Iterator[Batch]:
        """Yield `(inputs, targets)`."""
        order = torch.randperm(length(self.data), generator=torch.Generator().manual_seed(self.seed))
        chosen: Examples = Subset(self.data, order[: self.n].tolist())
        return Batches(data=chosen, batch_size=BATCH_SIZE, what=self.what).ordered()


def calibration_inputs(train: Examples, *, n: int, seed: int) -> list[Inputs]:
    """Return the inputs of `n` training examples drawn at random, in batches."""
    return [inputs for inputs, _ in DrawnBatches(train, n, seed, "calibration")]


def first_inputs(data: Examples, n: int) -> Inputs:
    """Return the inputs of the first `n` examples, each (n, ...)."""
    return Batches(data=data, batch_size=n).first(n)[0]


def length(data: Dataset[Any]) -> int:
    """Return the number of examples."""
    return len(cast("Any", data))
