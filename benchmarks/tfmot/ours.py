"""This file is dwindle's sides of the comparison with TFMOT, one seed: the same stages, recipes of one or two steps."""

from __future__ import annotations

import time
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from settings import BATCH_SIZE, N_BLOCKS, N_CLASSES, PADDING, SCOPES, STAGES, WIDTHS, Settings, derive

from dwindle.artifact import Artifact
from dwindle.bench.batches import batches
from dwindle.bench.deployment import deploy
from dwindle.bench.measure import open_file
from dwindle.bench.measurement import ACCURACY
from dwindle.bench.plan import Plan
from dwindle.bench.probes import accuracy
from dwindle.container.integer import integer_form
from dwindle.container.reader import read
from dwindle.container.records import CodebookRecord, Record, ScaledRecord, SparseRecord
from dwindle.core.schedule import Polynomial
from dwindle.data.augment import Chain, RandomCrop, RandomFlip
from dwindle.data.splits import Splits
from dwindle.job.inputs import calibration_inputs
from dwindle.network.compressed import CompressedModel
from dwindle.network.fabric_trainer import FabricTrainer
from dwindle.recipe.recipe import Recipe
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.technique import Context, Technique
from dwindle.techniques.cluster import Cluster
from dwindle.techniques.fine_tune import FineTune
from dwindle.techniques.prune_weights import PruneWeights
from dwindle.techniques.quantize_aware import QuantizeAware
from dwindle.zoo.resnet_cifar import ProjectedShortcut, ResNetCifar

N_CALIBRATION = 512
N_PARITY = 64


@dataclass
class Run:
    """All stages of one seed; what is finished is read from the folder."""

    side: str
    folder: Path
    splits: Splits
    seed: int
    settings: Settings
    n_threads: int
    stages: list[dict[str, Any]] = field(default_factory=list)

    def finish(self) -> dict[str, Any]:
        """Return everything about the outcome as plain values, `answers` (n,) among them."""
        started = time.process_time()
        model = self.model()
        files = deploy(model, self.splits.test.tensors[0][:N_PARITY], self.folder / "files").artifacts
        file, onnx = files["dwn"], files["onnx"]
        return {
            "stages": self.stages,
            "kept": kept_in_file(file.path),
            "file_bytes": file.path.stat().st_size,
            "onnx_bytes": onnx.path.stat().st_size,
            "onnx_zipped_bytes": _zipped_bytes(onnx.path),
            "validation_accuracy": float(self._answers(file, "validation").mean()),
            "answers": self._answers(file, "test"),
            "cpu_seconds": time.process_time() - started,
        }

    def model(self) -> CompressedModel:
        """Return the model after the last stage."""
        with torch.random.fork_rng():
            torch.manual_seed(derive(self.seed, 0, "weights"))
            network = ResNetCifar(
                in_channels=3, n_classes=N_CLASSES, widths=WIDTHS, n_blocks=N_BLOCKS, shortcut=ProjectedShortcut
            )
        model = CompressedModel.dense(network)
        for stage in STAGES:
            rates, tried = self.settings.rates[self.side][stage], {}
            if len(rates) > 1:
                trials = {rate: self._trained(stage, model, rate=rate, is_trial=True) for rate in rates}
                tried = {rate: _curve(trial)[-1]["validation_accuracy"] for rate, trial in trials.items()}
            rate = max(rates, key=lambda rate, tried=tried: tried.get(rate, 0.0))
            model = self._trained(stage, model, rate=rate, is_trial=False)
            tried = {str(rate): reached for rate, reached in tried.items()}
            self.stages.append({"stage": stage, "rate": rate, "tried": tried, "curve": list(_curve(model))})
        return model

    def _trained(self, stage: str, model: CompressedModel, *, rate: float, is_trial: bool) -> CompressedModel:
        epochs = self.settings.trial_epochs if is_trial else self.settings.epochs[stage]
        recipe = Recipe(steps_of(stage, self.settings, scope=SCOPES[self.side], epochs=epochs, rate=rate))
        return recipe.run(model, self._context(derive(self.seed, STAGES.index(stage), "stage")))

    def _context(self, seed: int) -> Context:
        train = self.splits.train
        trainer = FabricTrainer(
            train=train,
            validation=self.splits.validation,
            batch_size=BATCH_SIZE,
            augment=Chain((RandomCrop(padding=PADDING), RandomFlip())),
            precision="fp32",
            workdir=self.folder / "work",
        )
        return Context(
            seed=seed,
            example=train.tensors[0][:2],
            calibration=calibration_inputs(train, n=N_CALIBRATION, seed=self.seed),
            trainer=trainer,
            workdir=self.folder / "work",
        )

    def _answers(self, file: Artifact, split: str) -> np.ndarray:
        """Return whether the file is right, example by example."""
        plan = Plan(n_threads=self.n_threads, batch_size=64)
        with ExitStack() as stack:
            side = open_file(stack, file, OnnxRuntime(), plan=plan)
            every = batches(getattr(self.splits, split), batch_size=plan.batch_size)
            (found,) = accuracy.answer([(file.path.name, side.session)], every, scores=plan.scores)
        return found.values[ACCURACY]


def steps_of(stage: str, settings: Settings, *, scope: str, epochs: float, rate: float) -> tuple[Technique, ...]:
    """Return the steps of one stage."""
    if stage == "pruned":
        schedule = Polynomial(end=settings.prune_end, frequency=settings.prune_frequency)
        amount = {"sparsity": settings.sparsity, "scope": scope, "schedule": schedule}
        return (PruneWeights(**amount, epochs=epochs, learning_rate=rate),)
    if stage == "clustered":
        # TFMOT counts zero among its clusters; here it is a value of its own.
        cluster = Cluster(
            codebook_size=settings.n_levels - 1, init="near_optimal"
        )  # linear leaves some without weights
        return (cluster, FineTune(epochs=epochs, learning_rate=rate))
    if stage == "quantized":
        return (QuantizeAware(weights=8, activations=8, epochs=epochs, learning_rate=rate),)
    return (FineTune(epochs=epochs, learning_rate=rate),)


def kept_in_file(path: Path) -> dict[str, dict[str, float]]:
    """Return what is left of zeros and clusters in each weight of a `.dwn` file that an engine computes with.

    Raises:
        ValueError: a weight of two or more axes has no integer form.
    """
    found: dict[str, dict[str, float]] = {}
    for name, record in read(path).records.items():
        form = integer_form(record)
        if form is None or form.codes.ndim < 2:
            continue
        distinct = np.unique(form.codes)
        found[name] = {
            "n": int(form.codes.size),
            "zeros": float((form.codes == 0).mean()),
            "values": int((distinct != 0).sum()),
            "values_of_a_channel": max(int((np.unique(channel) != 0).sum()) for channel in form.codes),
            "n_scales": int(form.scale.size),
            "n_centroids": _n_centroids(record),
        }
    return found


def _n_centroids(record: Record) -> int:
    while isinstance(record, ScaledRecord | SparseRecord):
        record = record.values
    return len(np.unique(record.indices)) if isinstance(record, CodebookRecord) else 0


def _curve(model: CompressedModel) -> tuple[Any, ...]:
    return model.history[-1].curve


def _zipped_bytes(path: Path) -> int:
    archive = path.with_name(path.name + ".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.write(path, path.name)
    return archive.stat().st_size
