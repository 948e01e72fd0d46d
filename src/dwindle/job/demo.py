"""This file holds the demo's job: QuantNet of Abishek (2022) on scikit-learn's digits, trained from scratch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from dwindle.core.schedule import Polynomial
from dwindle.data.digits import load_digits_splits
from dwindle.job.job import Data, Job
from dwindle.network.fabric_trainer import FabricTrainer
from dwindle.network.train import Progress
from dwindle.recipe import Recipe
from dwindle.techniques.cluster import Cluster
from dwindle.techniques.fine_tune import FineTune
from dwindle.techniques.prune_weights import PruneWeights
from dwindle.techniques.quantize_static import QuantizeStatic
from dwindle.zoo.quantnet import quantnet

SIDE: Final = 32
"""QuantNet's input; the 8 x 8 digits are enlarged to it."""
DENSE_EPOCHS: Final = 12
RECIPE: Final = Recipe(
    (
        PruneWeights(sparsity=0.92, scope="global", schedule=Polynomial(), epochs=8),
        Cluster(codebook_size=16, init="near_optimal"),
        FineTune(epochs=2, learning_rate=0.002),
        QuantizeStatic(),
    )
)


def demo_job(out: Path, *, seed: int = 0, report_progress: Progress | None = None) -> Job:
    """Return the job, its dense network trained; about half a million weights on 1,797 images."""
    splits = load_digits_splits(size=SIDE)
    data = replace(Data.of(splits, name="digits"), name="digits (8 x 8, shown at 32 x 32)")
    trainer = FabricTrainer(
        train=data.train,
        validation=data.validation,
        batch_size=32,
        learning_rate=0.02,
        workdir=out / "work",
        report_progress=report_progress,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = quantnet(in_channels=1, n_classes=splits.n_classes)
    trainer(network, steps=DENSE_EPOCHS * trainer.steps_per_epoch, seed=seed, stage="train the dense network")
    return Job(
        name="demo: QuantNet on digits",
        network=network,
        data=data,
        recipe=RECIPE,
        trainer=trainer,
        out=out,
        seed=seed,
        n_calibration=256,
        latency_seconds=3.0,
        command="dwindle demo",
    )
