"""This file makes one outcome of a study: trains and compresses, writes the file, and records what it answers."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dwindle.artifact import Artifact
from dwindle.bench.deployment import Deployment, deploy
from dwindle.bench.machine import this_machine
from dwindle.bench.measurement import Measurement
from dwindle.bench.probes.operator_times import OperatorProfile
from dwindle.core.encoding import decode, support_of
from dwindle.errors import NetworkError
from dwindle.exporters.graph_cache import GraphCache
from dwindle.job.inputs import N_VALIDATION, DrawnBatches, calibration_inputs, first_inputs
from dwindle.job.job import Data
from dwindle.job.losses import loss_of, threshold_of
from dwindle.job.resolve import call_with, resolve
from dwindle.network.compressed import CompressedModel, FoldedBatchNorm
from dwindle.network.fabric_trainer import BaseLoss, FabricTrainer
from dwindle.network.labelled import Labelled
from dwindle.network.train import Progress
from dwindle.recipe.recipe import Stage
from dwindle.settings import NONE, TAG, to_plain
from dwindle.studies.layers import distinct_weights, judged_layers, together
from dwindle.studies.measuring import Bench
from dwindle.studies.models import load_model, partly_anew, save_model
from dwindle.studies.plan import Node
from dwindle.technique import Context, Needs, evidence_of
from dwindle.version import VERSION
from dwindle.whole_file import write_whole

DEFAULT_LOSS: Final = "cross_entropy"
N_PARITY: Final = 64
"""Examples on which parity is measured."""
N_CALIBRATION: Final = 512
_NO_MARKS: Final = str.maketrans("", "", ",:")
N_REMEMBERED: Final = 4
"""Models that stay in memory, because their children come next."""


@dataclass(kw_only=True, eq=False)
class Workshop:
    """Makes outcomes, one after the other; remembers data and models that the next one is likely to need.

    Attributes:
        folder: stage caches, checkpoints and files go into it.
        home: "file.py:function" in a study is relative to it.
        n_threads: of the engine that answers.
        report_progress: called with (stage, steps done, steps) during training.
        on_step: called after each step of a recipe with the outcome it belongs to and the number of finished steps.
    """

    folder: Path
    home: Path
    n_threads: int = 1
    report_progress: Progress | None = None
    on_step: Callable[[Node, int], None] | None = None
    _models: OrderedDict[str, CompressedModel] = field(default_factory=OrderedDict[str, CompressedModel])
    _data: dict[str, Data] = field(default_factory=dict[str, Data])
    _graphs: GraphCache = field(default_factory=GraphCache)

    def make(self, node: Node) -> dict[str, Any]:
        """Return everything about the outcome of `node` as plain values: a ledger entry of kind `outcome`.

        Raises:
            DwindleError: whatever stops it.
        """
        started = time.perf_counter()
        model = self.model(node)
        made = time.perf_counter()
        data = self.data(node)
        folder = self._folder_of(node)
        deployment = deploy(
            model,
            first_inputs(data.test, N_PARITY),
            folder,
            formats=("dwn", "onnx") if node.measures.onnx else ("dwn",),
            metadata={"name": node.words, "class_names": list(data.class_names)},
            graphs=self._graphs,
        )
        found = self._bench(node).measure(deployment, data)
        entry = {
            **node.label,
            "key": node.key,
            "study": node.study,
            "preset": node.preset,
            "is_as_published": node.is_as_published,
            "version": VERSION,
            "machine": this_machine().summary(),
            "recipe": list(node.steps),
            "training": dict(node.training),
            "epochs": node.epochs,
            "seconds": made - started,
            "seconds_to_measure": time.perf_counter() - made,
            "history": [
                _brief(asdict(record)) for record in model.history[len(model.history) - len(node.recipe.steps) :]
            ],
            **_counts(model),
            "files": {name: file.sha256 for name, file in deployment.artifacts.items()},
            "measurements": [_plain(measurement) for measurement in found.measurements],
            "answers": {"n": len(found.right), "right": pack_bits(found.right)},
        }
        if found.profile is not None:
            entry["profile"] = _shares(found.profile)
        if found.estimated_energy_mj is not None:
            entry["estimated_energy_mj"] = found.estimated_energy_mj
        if node.layers:
            entry["layers"] = self._layers(node, model, deployment)
        kept = self._tidy(node, deployment)
        return entry if kept is None else {**entry, "file": str(kept.relative_to(self.folder))}

    def _layers(self, node: Node, model: CompressedModel, deployment: Deployment) -> dict[str, Any]:
        """Return what single layers are like, the file read back, and what judges them where the stage asks for it."""
        counted = distinct_weights(deployment.artifacts["dwn"].path, node.layers)
        if not node.criteria:
            return counted
        evidence = evidence_of(self._context(node))
        return together(counted, judged_layers(model.network, evidence, node.layers, criteria=node.criteria))

    def model(self, node: Node) -> CompressedModel:
        """Return the outcome of `node`: from memory, from its file, or made now."""
        if node.key not in self._models:
            self._models[node.key] = self._kept(node) or self._made(node)
            while len(self._models) > N_REMEMBERED:
                self._models.popitem(last=False)
        self._models.move_to_end(node.key)
        return self._models[node.key]

    def _kept(self, node: Node) -> CompressedModel | None:
        """Return the outcome of a training that is over; what is not trained is made again faster than read."""
        if not self._model_path(node).exists():
            return None
        return load_model(self._model_path(node), self._untrained(node), networks=self._networks(node))

    def _made(self, node: Node) -> CompressedModel:
        model = node.recipe.run(self._begun(node), self._context(node), on_stage=lambda stage: self._note(node, stage))
        if node.trains:
            save_model(self._model_path(node), model)
        return model

    def _begun(self, node: Node) -> CompressedModel:
        """Return what the steps of `node` start from."""
        if node.parent is None:
            return self._untrained(node)
        before = self.model(node.parent)
        return partly_anew(before, self._untrained(node), node.anew, where=node.words) if node.anew else before

    def _model_path(self, node: Node) -> Path:
        return self._folder_of(node) / "model.safetensors"

    def _note(self, node: Node, stage: Stage) -> None:
        if self.on_step is not None:
            self.on_step(node, stage.number)

    def remembers(self, node: Node) -> bool:
        """Return whether the outcome of `node` is in memory."""
        return node.key in self._models

    def data(self, node: Node) -> Data:
        """Return the data of `node`; those of one case at a time are kept."""
        reform = node.training["reform"]
        seed = None if reform in {None, NONE} else node.seed
        name = json.dumps([node.case.load, node.load_arguments, reform, seed], sort_keys=True, default=str)
        if name not in self._data:
            self._data.clear()  # before the next are loaded: both may not fit into memory
            load = resolve(node.case.load, self.home, where=f"{node.case.name}: load")
            splits = call_with(load, node.load_arguments, where=f"{node.case.name}: load")
            if reform is not None and seed is not None:
                splits = resolve(reform, self.home, where="training.reform")(splits, seed)
            self._data[name] = Data.of(splits, name=node.case.load)
        return self._data[name]

    def _untrained(self, node: Node) -> CompressedModel:
        where = f"{node.case.name}: build"
        return CompressedModel.dense(self._build(node.case.build, node.build_arguments, seed=node.seed, where=where))

    def _build(self, reference: str, arguments: Mapping[str, Any], *, seed: int, where: str) -> nn.Module:
        build = resolve(reference, self.home, where=where)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = call_with(build, arguments, where=where)
        if not isinstance(network, nn.Module):
            raise NetworkError(f"{reference} returned {type(network).__name__}, not an nn.Module")
        return network

    def _networks(self, node: Node) -> dict[str, nn.Module]:
        """Return what the steps of `node` name, and what those of the nodes before it did."""
        earlier = {} if node.parent is None else self._networks(node.parent)
        own = {
            name: self._build(
                built["build"],
                built.get("arguments", {}),
                seed=node.seed,
                where=f"{node.case.name}: networks.{name}",
            )
            for name, built in node.networks.items()
        }
        return earlier | own

    def _context(self, node: Node) -> Context:
        data = self.data(node)
        folder = self._folder_of(node)
        wants = {need for step in node.recipe.steps for need in step.needs}
        trainer = self._trainer(node, data, folder)
        return Context(
            seed=node.seed,
            example=first_inputs(data.train, 2),
            calibration=calibration_inputs(data.train, n=N_CALIBRATION, seed=node.seed),
            trainer=trainer,
            teacher=self.model(node.root).network if Needs.TEACHER in wants else None,
            networks=self._networks(node),
            early=None if node.early is None else self.model(node.early).network,
            validation=Labelled(
                batches=DrawnBatches(data.validation, N_VALIDATION, node.seed, "validation"),
                base_loss=trainer.base_loss,
            ),
            workdir=folder if node.trains else None,
        )

    def _trainer(self, node: Node, data: Data, folder: Path) -> FabricTrainer:
        named = {
            name: resolve(reference, self.home, where=f"training.{name}")
            for name in ("augment", "schedule", "optimizer")
            if (reference := node.training[name]) not in {None, NONE}
        }
        patience = node.training["patience"]
        loss = self._loss(node)
        return FabricTrainer(
            train=data.train,
            validation=data.validation,
            batch_size=node.training["batch_size"],
            learning_rate=node.training["learning_rate"],
            patience=None if patience == NONE else patience,
            workdir=folder,
            report_progress=self.report_progress,
            base_loss=loss,
            threshold=threshold_of(loss),
            **cast("dict[str, Any]", named),
        )

    def _loss(self, node: Node) -> BaseLoss:
        named = node.training.get("loss")
        return loss_of(DEFAULT_LOSS if named in {None, NONE} else named, self.home, where="training.loss")

    def _bench(self, node: Node) -> Bench:
        seconds = float(node.measures.speedup_seconds)
        dense = self._dense_file(node.root) if node.measures.onnx and seconds and node.parent is not None else None
        threshold = threshold_of(self._loss(node))
        return Bench(
            n_threads=self.n_threads, dense=dense, seconds=seconds, threshold=threshold, measures=node.measures
        )

    def _dense_file(self, root: Node) -> Artifact:
        """Return the `.onnx` of the dense network that others are timed in turn with; it stays beside its model."""
        folder, name = self._folder_of(root), "dense"
        if (path := folder / f"{name}.onnx").exists():
            return Artifact.of(path)
        inputs = first_inputs(self.data(root).test, N_PARITY)
        made = deploy(self.model(root), inputs, folder, formats=("onnx",), name=name, graphs=self._graphs)
        return made.artifacts["onnx"]

    def _folder_of(self, node: Node) -> Path:
        return self.folder / "work" / node.key

    def _tidy(self, node: Node, deployment: Deployment) -> Path | None:
        """Keep what is needed again, the model of a training; return the deployed file if it was asked for."""
        folder, kept = self._folder_of(node), None
        for file in reversed(
            [*deployment.artifacts.values()]
        ):  # the .dwn, which is the first, is the one that is named
            if node.stage.keeps_file:
                kept = self.folder / "files" / f"{_file_name(node.words)}-{node.key}{file.path.suffix}"
                write_whole(kept, file.path.read_bytes())
            file.path.unlink()
        if self._model_path(node).exists():
            shutil.rmtree(folder / "stages", ignore_errors=True)
        for unneeded in (*folder.glob("*.ckpt"), *folder.glob(".*.part")):  # the latter of processes that were killed
            unneeded.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
        return kept


def _file_name(words: str) -> str:
    """Return what a file can be called.

    >>> _file_name("LeNet/5 on MNIST, seed 0: best, 4 bits")
    'LeNet-5_on_MNIST_seed_0_best_4_bits'
    """
    kept = "".join(letter if letter.isalnum() or letter in " ._+" else "-" for letter in words.translate(_NO_MARKS))
    return kept.replace(" ", "_")


def pack_bits(right: npt.NDArray[np.bool_]) -> str:
    """Return (n,) truths as text: eight to a byte, base64.

    >>> pack_bits(np.array([True, False, True]))
    'oA=='
    """
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def unpack_bits(text: str, n: int) -> npt.NDArray[np.bool_]:
    """Return the (n,) truths that `pack_bits` packed.

    >>> unpack_bits("oA==", 3).tolist()
    [True, False, True]
    """
    packed = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    return np.unpackbits(packed, count=n).astype(np.bool_)


def _counts(model: CompressedModel) -> dict[str, int]:
    """Count weights: those of the dense network, and those that are left of it, or of the one that took its place."""
    is_whole = all(isinstance(edit, FoldedBatchNorm) for edit in model.edits)
    n_weights = model.n_dense_weights if is_whole else sum(p.numel() for p in model.network.parameters())
    n_pruned = 0
    for encoding in model.encodings.values():
        support = support_of(encoding)
        n_pruned += 0 if support is None else int(decode(encoding).numel() - int(support.sum()))
    return {"n_dense_weights": model.n_dense_weights, "n_weights": n_weights - n_pruned}


def _brief(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a step of the history without what it decided for each tensor."""
    decisions = {key: value for key, value in record["decisions"].items() if key != "tensors"}
    return {**record, "decisions": decisions}


def _shares(profile: OperatorProfile) -> dict[str, Any]:
    """Return what is kept of a profile: shares of the time of a call, what they cover, and of how many runs."""
    return {
        "shares": {found.group: found.share for found in profile.classes},
        "quantizing": profile.quantizing.share,
        "coverage": profile.coverage,
        "wall_ms": profile.wall_ms,
        "n_runs": profile.n_runs,
    }


def _plain(measurement: Measurement) -> dict[str, Any]:
    plain = to_plain(replace(measurement))
    metric = {key: value for key, value in plain["metric"].items() if key != TAG}
    return {**{key: value for key, value in plain.items() if key != TAG}, "metric": metric}
