"""This file holds the reference trainer: plain supervised training over Lightning Fabric that resumes bit for bit.

Exactness rests on three rules: the order of the data and their augmentation derive from (seed, epoch), torch's global
generator (dropout) is seeded for each epoch inside a fork, and the learning rate is a function of the step alone.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.errors import DataError, NetworkError, SettingError
from dwindle.network.as_found import left_as_found, put_channels_last
from dwindle.network.batches import (
    Batches,
    Data,
    all_targets,
    are_classes,
    hash_bytes,
    require_labels,
    try_first_batch,
    try_loss,
)
from dwindle.network.fast_convolutions import fast_convolutions
from dwindle.network.identity import identify
from dwindle.network.inputs import as_tuple, in_float32, n_examples
from dwindle.network.optimizers import sgd, warm_up_cosine
from dwindle.network.train import AfterStep, Batch, Loss, Progress
from dwindle.network.train_state import read_state, write_state
from dwindle.network.two_classes import as_scores

BaseLoss = Callable[[Any, Any], Tensor]
"""`base_loss(output, target)` returns a scalar; each is what the network and the data give, a tensor or a tuple."""
Augment = Callable[[Any, torch.Generator], Any]
"""`augment(inputs, generator)` returns inputs of the same kind; whatever is random in it comes from `generator`."""
OptimizerFactory = Callable[[list[dict[str, Any]], float], torch.optim.Optimizer]
"""`factory(groups, learning_rate)`: the group without weight decay says so itself."""
Schedule = Callable[[float], float]
"""`schedule(progress)` returns the factor of the learning rate; progress runs over [0, 1)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FabricTrainer:
    """Train a network in place with stochastic gradient descent; implements `network.train.Trainer`.

    Attributes:
        train: `(input, target)` items, several inputs as a tuple; a `DataLoader` keeps its own batches.
        validation: read after each epoch; needed by `patience`.
        batch_size: examples in a step.
        learning_rate: the peak of the schedule, unless the call names its own.
        base_loss: what is descended, and what `validation_loss` reports.
        optimizer: builds the optimizer; parameters of one axis (biases, batch norms, centroids) get no weight decay.
        augment: changes the inputs of a training batch.
        precision: `auto` takes bfloat16 where the device computes it in hardware, else float32.
        patience: stop after so many epochs without a better validation result, and go back to the best one. A call with
            `after_step` ignores it: a schedule of masks has to run to its end.
        threshold: above it one output names the second of two classes; None: each class has an output of its own.
        workdir: folder for a checkpoint each epoch; None keeps none, so a killed run starts over.
        accelerator: as Lightning names them: `auto`, `cpu`, `cuda`, ...; one device is used.
        report_progress: called with (stage, steps done, steps) after each step.
    """

    train: Data
    validation: Data | None = None
    batch_size: int = 128
    learning_rate: float = 0.05
    base_loss: BaseLoss = functional.cross_entropy
    optimizer: OptimizerFactory = sgd
    schedule: Schedule = warm_up_cosine
    augment: Augment | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    patience: int | None = None
    threshold: float | None = None
    workdir: Path | None = None
    accelerator: str = "auto"
    report_progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise SettingError(f"batch_size must be at least 1, got {self.batch_size}")
        _require_rate(self.learning_rate)
        if self.patience is not None and (self.patience < 1 or self.validation is None):
            raise SettingError(f"patience={self.patience} needs validation data and must be at least 1")

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the training data."""
        return self.train_batches.n_shuffled

    @cached_property
    def train_batches(self) -> Batches:
        """The training data in batches."""
        return Batches(data=self.train, batch_size=self.batch_size)

    @cached_property
    def validation_batches(self) -> Batches | None:
        """The validation data in batches."""
        if self.validation is None:
            return None
        return Batches(data=self.validation, batch_size=4 * self.batch_size, what="validation")

    def __call__(  # ruff: ignore[too-many-arguments] (the seam of network.train.Trainer)
        self,
        network: nn.Module,
        *,
        steps: int,
        seed: int,
        stage: str,
        learning_rate: float | None = None,
        loss: Loss | None = None,
        after_step: AfterStep | None = None,
    ) -> tuple[Mapping[str, float], ...]:
        """Train `network` in place for `steps` steps; return the figures of each epoch.

        The figures are epoch, step, loss, learning_rate (of the last step), seconds and, with validation data,
        validation_loss; where targets are classes, accuracy and validation_accuracy, too. Loss and accuracy are those
        of the training batches as they were met: augmented, by a network that changed from batch to batch.

        Raises:
            DataError: data that are empty, that the network rejects, or whose labels are out of range.
            NetworkError: nothing can be trained, or the loss became NaN.
            CheckpointError: a checkpoint cannot be written or read.
        """
        rate = self.learning_rate if learning_rate is None else learning_rate
        _require_rate(rate)
        if steps < 0:
            raise SettingError(f"steps must not be negative, got {steps}")
        job = _Job(steps=steps, seed=seed, stage=stage, rate=rate, loss=loss, after_step=after_step)
        with left_as_found(network), torch.random.fork_rng(), fast_convolutions():
            return _Run(self, network, job).finish() if steps else ()


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The arguments of one call."""

    steps: int
    seed: int
    stage: str
    rate: float
    loss: Loss | None
    after_step: AfterStep | None


class _Run:
    """One training under way."""

    def __init__(self, trainer: FabricTrainer, network: nn.Module, job: _Job) -> None:
        self.trainer, self.network, self.job = trainer, network, job
        self.curve: list[Mapping[str, float]] = []
        self.step = 0
        self.right: list[int] = []
        self.n_answered = 0
        self.best: tuple[float, float] | None = None
        self.best_epoch = 0
        self.best_state: dict[str, Tensor] = {}
        self.path = None if trainer.workdir is None else trainer.workdir / f"{_file_name(job.stage)}-{self._key()}.ckpt"
        self.fabric = _fabric(trainer)
        put_channels_last(network, trainer.train_batches.first(2)[0])
        self.optimizer = trainer.optimizer(_groups(network), job.rate)
        self.rates = [group["lr"] / job.rate for group in self.optimizer.param_groups]
        _, self.stepper = self.fabric.setup(network, self.optimizer)
        self.n_classes = self._check_data()

    def finish(self) -> tuple[Mapping[str, float], ...]:
        """Train from the last checkpoint, or from the start, to the end."""
        self._resume()
        n_epochs = math.ceil(self.job.steps / self.trainer.steps_per_epoch)
        for epoch in range(len(self.curve), n_epochs):
            if self._has_waited_enough():
                break
            self._train_epoch(epoch)
            self._save()
        if self._stops_early and self.best_state:
            self.network.load_state_dict(self.best_state)
        return tuple(self.curve)

    @property
    def _stops_early(self) -> bool:
        return self.trainer.patience is not None and self.job.after_step is None

    def _has_waited_enough(self) -> bool:
        patience = self.trainer.patience
        return self._stops_early and patience is not None and len(self.curve) - self.best_epoch >= patience

    def _train_epoch(self, epoch: int) -> None:
        started, total, first = time.perf_counter(), 0.0, self.step
        self.right, self.n_answered = [], 0
        torch.manual_seed(derive(self.job.seed, epoch, "dropout"))
        generator = torch.Generator().manual_seed(derive(self.job.seed, epoch, "augment"))
        self.network.train()
        for inputs, targets in self.trainer.train_batches.shuffled(derive(self.job.seed, epoch, "order")):
            if self.step == self.job.steps:
                break
            augmented = inputs if self.trainer.augment is None else self.trainer.augment(inputs, generator)
            total += self._take_step((augmented, targets), epoch)
        self.curve.append({
            "epoch": epoch + 1.0,
            "step": float(self.step),
            "loss": total / (self.step - first),
            **({"accuracy": sum(self.right) / self.n_answered} if self.right else {}),
            "learning_rate": self.job.rate * self._factor(self.step - 1),
            **self._validate(),
            "seconds": time.perf_counter() - started,
        })  # fmt: skip

    def _take_step(self, batch: Batch, epoch: int) -> float:
        inputs, targets = self.fabric.to_device(batch)
        if self.n_classes is not None:
            require_labels(targets, self.n_classes, "training")
        factor = self._factor(self.step)
        for group, ratio in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = self.job.rate * ratio * factor
        output = self._answer(inputs)
        loss = self.trainer.base_loss(output, targets)
        if self.job.loss is not None:
            with self.fabric.autocast():  # a loss may run a network of its own
                loss = self.job.loss(output, (inputs, targets), loss)
        if (n_right := self._n_right(output, targets)) is not None:
            self.right.append(n_right)
            self.n_answered += n_examples(inputs)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NetworkError(
                f"stage {self.job.stage!r}: the loss became {value} in epoch {epoch + 1} (step {self.step + 1}) at "
                f"learning rate {self.job.rate * factor:g}; lower the learning rate, or look for NaN in the inputs"
            )
        self.stepper.zero_grad()
        self.fabric.backward(loss)
        self.stepper.step()
        self.step += 1
        if self.job.after_step is not None:
            self.job.after_step(self.step)
        if self.trainer.report_progress is not None:
            self.trainer.report_progress(self.job.stage, self.step, self.job.steps)
        return value

    def _answer(self, inputs: Any) -> Any:
        """Return what the network says, in float32.

        Not through Fabric's wrapper, which forbids a loss to ask for gradients of its own, as Taylor scores do.
        """
        try:
            with self.fabric.autocast():
                output = self.network(*as_tuple(in_float32(inputs)))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):  # torch's words
                raise
            raise DataError(
                f"{self.job.stage!r}: batches of {n_examples(inputs)} give a batch norm one value; raise batch_size"
            ) from error
        return in_float32(output)

    def _n_right(self, output: Any, targets: Any) -> int | None:
        """Return how many answers are right; None where they are no classes."""
        scores = as_scores(output, self.trainer.threshold)
        return int((scores.argmax(1) == targets).sum()) if are_classes(scores, targets) else None

    def _factor(self, step: int) -> float:
        return self.trainer.schedule(step / self.job.steps)

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        batches = self.trainer.validation_batches
        if batches is None:
            return {}
        self.network.eval()
        total, n = 0.0, 0
        right: list[int | None] = []
        for batch in batches.ordered():
            inputs, targets = self.fabric.to_device(batch)
            output = self._answer(inputs)
            total += float(self.trainer.base_loss(output, targets)) * n_examples(inputs)
            n += n_examples(inputs)
            right.append(self._n_right(output, targets))
        if not math.isfinite(total):
            raise NetworkError(
                f"stage {self.job.stage!r}: the validation loss became {total} in epoch {len(self.curve) + 1}; "
                "look for NaN in the validation data, or lower the learning rate"
            )
        figures = {"validation_loss": total / n}
        if right and right[-1] is not None:
            figures["validation_accuracy"] = sum(filter(None, right)) / n
        self._remember_best((figures.get("validation_accuracy", 0.0), -figures["validation_loss"]))
        return figures

    def _remember_best(self, result: tuple[float, float]) -> None:
        if self._stops_early and (self.best is None or result > self.best):
            self.best, self.best_epoch = result, len(self.curve) + 1
            self.best_state = {name: value.clone() for name, value in self.network.state_dict().items()}

    def _check_data(self) -> int | None:
        """Return the number of classes where labels can be checked against it."""
        n_classes: int | None = None
        for batches in filter(None, (self.trainer.train_batches, self.trainer.validation_batches)):
            output = try_first_batch(self.network, batches, self.fabric.device)
            if self.trainer.base_loss is functional.cross_entropy and isinstance(output, Tensor):
                n_classes = output.shape[1] if output.ndim > 1 else None
                targets = all_targets(batches)
                if n_classes is not None and targets is not None:
                    require_labels(targets, n_classes, batches.what)
            few = self.fabric.to_device(batches.first(2)[1])
            try_loss(self.trainer.base_loss, output, few, what=batches.what)
        return n_classes

    def _key(self) -> str:
        """Return a hash of all that decides the outcome: a checkpoint under it belongs to this very training."""
        trainer, job = self.trainer, self.job
        sha = hashlib.sha256()
        for name, tensor in self.network.state_dict().items():
            sha.update(name.encode())
            sha.update(hash_bytes(tensor))
        settings = (
            job.steps, job.seed, job.rate, trainer.batch_size, trainer.precision, trainer.patience, trainer.accelerator,
            *map(identify, (trainer.base_loss, trainer.optimizer, trainer.schedule, trainer.augment, job.loss)),
            trainer.train_batches.fingerprint(),
            trainer.validation_batches.fingerprint() if trainer.validation_batches is not None else "",
            *([] if trainer.threshold is None else [trainer.threshold]),
        )  # fmt: skip
        sha.update(repr(settings).encode())
        return sha.hexdigest()[:16]

    def _save(self) -> None:
        if self.path is None:
            return
        is_done = self.step == self.job.steps  # then only the outcome is needed again
        state = {
            "network": self.network.state_dict(), "step": self.step,
            "optimizer": None if is_done else self.optimizer.state_dict(),
            "curve": [dict(figures) for figures in self.curve],
            "best": self.best, "best_epoch": self.best_epoch, "best_state": self.best_state,
        }  # fmt: skip
        write_state(self.path, state)

    def _resume(self) -> None:
        state = None if self.path is None else read_state(self.path)
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        if state["optimizer"] is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.curve = state["step"], list(state["curve"])
        self.best, self.best_epoch, self.best_state = state["best"], state["best_epoch"], state["best_state"]
        if self.trainer.report_progress is not None:
            self.trainer.report_progress(self.job.stage, self.step, self.job.steps)


def derive(seed: int, epoch: int, purpose: str) -> int:
    """Return the seed of one random choice.

    >>> derive(0, 1, "order") != derive(1, 0, "order")
    True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()[:7], "big")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether `device` computes bfloat16 in hardware; emulated, it is many times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has_avx512: Callable[[], bool] = torch.cpu._is_avx512_bf16_supported  # pyright: ignore[reportPrivateUsage]
    has_amx: Callable[[], bool] = torch.cpu._is_amx_tile_supported  # pyright: ignore[reportPrivateUsage]
    return device.type == "cpu" and (has_avx512() or has_amx())


def _fabric(trainer: FabricTrainer) -> Any:
    from lightning_fabric import Fabric

    probe = Fabric(accelerator=trainer.accelerator, devices=1)
    uses_bf16 = trainer.precision == "bf16" or (trainer.precision == "auto" and has_fast_bfloat16(probe.device))
    return Fabric(accelerator=trainer.accelerator, devices=1, precision="bf16-mixed") if uses_bf16 else probe


def _groups(network: nn.Module) -> list[dict[str, Any]]:
    trained = [p for p in network.parameters() if p.requires_grad]
    if not trained:
        raise NetworkError("no parameter of this network can be trained (all are frozen or integer codes)")
    decayed = [p for p in trained if p.ndim >= 2]
    others = [p for p in trained if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _file_name(stage: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in stage)


def _require_rate(rate: float) -> None:
    if not (math.isfinite(rate) and rate > 0):
        raise SettingError(f"learning_rate must be a positive number, got {rate}")
