"""This file keeps the outcome of every finished step on disk, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dwindle.errors import DwindleError
from dwindle.network.compressed import CompressedModel
from dwindle.network.edits import NO_NETWORKS
from dwindle.network.identity import code_of, identify
from dwindle.network.inputs import as_inputs, as_tuple
from dwindle.network.train import Trainer
from dwindle.recipe.named import named_by
from dwindle.recipe.pack import (
    fingerprint,
    pack,
    record_from_plain,
    record_to_plain,
    unpack,
    update_with_tensor,
)
from dwindle.settings import to_plain
from dwindle.technique import Context, Needs, Technique
from dwindle.version import VERSION
from dwindle.whole_file import write_whole

FORMAT: Final = 1
"""Changes when stages written earlier can no longer be read."""


class StageCache:
    """Outcomes of steps in a folder, by a hash of everything that goes into the step.

    An entry is `<key>.safetensors` (every tensor, and the rest as JSON in its header) with `<key>.sha256` beside it,
    written last. An entry that is torn, changed or unreadable counts as absent and is written again.

    The hash covers the model, the source of its classes and of the step, the settings, the seed, the version, the
    calibration batches, the networks that the step learns from or names, and of the trainer its settings, its functions
    with their source and a probe of its data; not the functions that these call in turn, so after changing one of those
    start in an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder: Final = folder

    def key(self, step: Technique, model: CompressedModel, context: Context) -> str:
        """Return the hash of everything that goes into applying `step` to `model`."""
        sha = hashlib.sha256()
        code = [code_of(model.network), identify(type(step))]
        parts = [FORMAT, VERSION, to_plain(step), context.seed, fingerprint(model), code, _offered(step, context)]
        sha.update(json.dumps(parts, sort_keys=True, default=repr).encode())
        if Needs.CALIBRATION in step.needs:
            offered = cast("Iterable[object]", context.calibration or ())
            for batch in offered:
                inputs = as_inputs(batch)
                for tensor in () if inputs is None else as_tuple(inputs):  # the step says why something else cannot be
                    update_with_tensor(sha, "calibration", tensor)
        if Needs.LABELS in step.needs:
            for tensor in _labelled(context):
                update_with_tensor(sha, "validation", tensor)
        for label, network in _networks(step, context):
            for name, tensor in network.state_dict().items():
                update_with_tensor(sha, f"{label} {name}".lower(), tensor)
        return sha.hexdigest()[:32]

    def load(
        self, key: str, base: CompressedModel, *, networks: Mapping[str, nn.Module] = NO_NETWORKS
    ) -> CompressedModel | None:
        """Return the stored outcome of the step that `key` stands for, applied to `base`; None where there is none.

        Args:
            key: as `key` returned it.
            base: the model before the step.
            networks: by name, what may have taken the place of its network.
        """
        path, checksum = self._paths(key)
        try:
            if checksum.read_text(encoding="utf-8").split()[:1] != [_sha256(path)]:
                return None
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # ruff: ignore[in-dict-keys] (no mapping)
                stage: dict[str, Any] = json.loads(file.metadata()["stage"])
            after = unpack(tensors, stage["state"], base=base, networks=networks)
            record = record_from_plain(stage["record"])
        except (OSError, SafetensorError, DwindleError, KeyError, TypeError, ValueError):
            return None
        return replace(after, history=(*base.history, record)) if after.digest() == record.digest else None

    def store(self, key: str, after: CompressedModel) -> None:
        """Store `after`; where that fails (a full disk) warn, because hours of training matter more than their copy."""
        tensors, state = pack(after)
        stage = json.dumps({"state": state, "record": record_to_plain(after.history[-1])})
        # Tensors may share storage (a decoded weight and its encoding do not, two views of one would): save copies.
        copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        path, checksum = self._paths(key)
        try:
            write_whole(path, safetensors.torch.save(copies, metadata={"stage": stage}))
            write_whole(checksum, f"{_sha256(path)}  {path.name}\n".encode())
        except (OSError, SafetensorError) as error:
            warnings.warn(
                f"the outcome of {after.history[-1].technique} could not be kept in {self._folder} ({error}); the run "
                "goes on, but would repeat this step if it were killed; make room or choose another workdir",
                RuntimeWarning,
                stacklevel=2,
            )

    def _paths(self, key: str) -> tuple[Path, Path]:
        return self._folder / f"{key}.safetensors", self._folder / f"{key}.sha256"


def _offered(step: Technique, context: Context) -> dict[str, Any]:
    """Return what the step reads of the context, apart from calibration batches, as plain values."""
    offered: dict[str, Any] = {}
    if Needs.EXAMPLE in step.needs and context.example is not None:
        offered["example"] = [[str(tensor.dtype), list(tensor.shape[1:])] for tensor in as_tuple(context.example)]
    if Needs.TRAINING in step.needs and context.trainer is not None:
        offered["trainer"] = _described(context.trainer)
        offered["steps_per_epoch"] = context.trainer.steps_per_epoch
    if Needs.LABELS in step.needs and context.validation is not None:
        offered["validation_loss"] = identify(context.validation.base_loss)
    return offered


def _labelled(context: Context) -> Iterator[Tensor]:
    """Yield every tensor of the validation data that layers are judged by."""
    for inputs, targets in () if context.validation is None else context.validation.batches:
        yield from (*as_tuple(inputs), *as_tuple(targets))


def _networks(step: Technique, context: Context) -> Iterator[tuple[str, nn.Module]]:
    """Yield the networks of the context that decide the outcome, each with what it is to the step."""
    offered = ((Needs.TEACHER, context.teacher), (Needs.REFERENCE, context.reference), (Needs.EARLY, context.early))
    for need, network in offered:
        if need in step.needs and network is not None:
            yield str(need.name), network
    for name in named_by(step):
        if (network := context.networks.get(name)) is not None:
            yield f"{name} {code_of(network)} {network!r}", network


def _described(trainer: Trainer) -> dict[str, Any]:
    """Return what decides how `trainer` trains, as far as it can be read: settings, names of functions, data."""
    described: dict[str, Any] = {}
    for name, value in cast("dict[str, Any]", getattr(trainer, "__dict__", {})).items():
        if isinstance(value, bool | int | float | str):
            described[name] = value
        elif callable(value) and not name.startswith(("_", "report")):
            described[name] = identify(value)
    sources = {"data": "train_batches"}
    if described.get("patience") is not None:  # then the validation data decide which epoch is kept
        sources["validation"] = "validation_batches"
    for key, attribute in sources.items():
        fingerprint_data = getattr(getattr(trainer, attribute, None), "fingerprint", None)
        if callable(fingerprint_data):
            described[key] = fingerprint_data()
    return described


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
