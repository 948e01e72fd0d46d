"""This file turns a job.toml into a job: it runs the user's own functions and reads the checkpoint, never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import nn

from dwindle.bench.budget import Budget
from dwindle.bench.measurement import Metric
from dwindle.bench.probes.scores import CLASSIFICATION, SCORES, AnyScore, Score
from dwindle.errors import DataError, NetworkError, SettingError
from dwindle.job.job import Data, Job
from dwindle.job.losses import loss_of, threshold_of
from dwindle.job.resolve import call_with, resolve, resolve_known
from dwindle.job.spec import FurtherSpec, JobSpec, MetricSpec, NetworkSpec, TaskSpec, read_job
from dwindle.job.task import Task
from dwindle.network.checkpoint import load_checkpoint
from dwindle.network.fabric_trainer import BaseLoss, FabricTrainer, OptimizerFactory, Schedule
from dwindle.network.optimizers import adamw, long_warm_up_cosine, sgd, warm_up_cosine
from dwindle.network.train import Progress
from dwindle.recipe import Recipe
from dwindle.settings import nearest

OPTIMIZERS: Final[Mapping[str, OptimizerFactory]] = {"sgd": sgd, "adamw": adamw}
SCHEDULES: Final[Mapping[str, Schedule]] = {
    "warm_up_cosine": warm_up_cosine,
    "long_warm_up_cosine": long_warm_up_cosine,
}


def load_job(path: Path, *, out: Path | None = None, report_progress: Progress | None = None) -> Job:
    """Return the job that `path` (a job.toml) describes; paths in it are relative to its folder.

    Raises:
        DwindleError: whatever cannot be loaded: one error with the place, the value and the remedy.
    """
    spec, folder = read_job(path), path.resolve().parent
    recipe = Recipe.from_plain(spec.recipe, where=f"{path}: recipe")
    task = _task(spec.task, folder)
    metrics = [score.metric for score in task.scores]
    budget = Budget.from_plain(spec.budget, where=f"{path}: budget", metrics=metrics) if spec.budget else None
    with torch.random.fork_rng():
        torch.manual_seed(spec.seed)
        network = _build_network(spec.network, folder, where="network")
        early = _early_network(spec.network, folder)
    networks = _further_networks(spec, folder, where=str(path))
    data = _load_data(spec, folder)
    target = out if out is not None else (folder / spec.output.folder).resolve()
    return Job(
        name=spec.name,
        network=network,
        early=early,
        networks=networks,
        data=data,
        recipe=recipe,
        trainer=_trainer(spec, folder, data=data, loss=task.loss, target=target, report_progress=report_progress),
        task=task,
        out=target,
        seed=spec.seed,
        formats=spec.output.formats,
        budget=budget,
        baseline_trains_equally=spec.training.baseline_trains_equally,
        n_calibration=spec.data.n_calibration,
        export=spec.output.options(preprocessing=spec.preprocessing, class_names=data.class_names),
        latency_seconds=spec.output.latency_seconds,
        throughput_batch=spec.output.throughput_batch,
        measures_memory=spec.output.memory,
        measures_energy=spec.output.energy,
        measures_arena=spec.output.arena,
        measures_cpu_time=spec.output.cpu_time,
        profiles_operators=spec.output.profile,
        command=f"dwindle compress {path.name}",
    )


def _trainer(
    spec: JobSpec, folder: Path, *, data: Data, loss: BaseLoss, target: Path, report_progress: Progress | None
) -> FabricTrainer:
    training = spec.training
    augment = resolve(training.augment, folder, where="training.augment") if training.augment else None
    return FabricTrainer(
        train=data.train,
        validation=data.validation,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        base_loss=loss,
        optimizer=resolve_known(training.optimizer, OPTIMIZERS, folder, where="training.optimizer"),
        schedule=resolve_known(training.schedule, SCHEDULES, folder, where="training.schedule"),
        augment=augment,
        precision=training.precision,
        patience=training.patience,
        threshold=threshold_of(loss),
        workdir=target / "work",
        report_progress=report_progress,
    )


def _build_network(spec: NetworkSpec | FurtherSpec, folder: Path, *, where: str) -> nn.Module:
    build = resolve(spec.build, folder, where=f"{where}.build")
    network = call_with(build, spec.arguments, where=where)
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{where}.build = {spec.build!r} returned {type(network).__name__}, not an nn.Module")
    if spec.checkpoint is not None:
        load_checkpoint(network, folder / spec.checkpoint)
    return network


def _early_network(spec: NetworkSpec, folder: Path) -> nn.Module | None:
    if spec.early is None:
        return None
    return _build_network(replace(spec, checkpoint=spec.early), folder, where="network")


def _further_networks(spec: JobSpec, folder: Path, *, where: str) -> dict[str, nn.Module]:
    """Build each from the job's seed: the same weights as where a job of its own builds the network with that seed."""
    found: dict[str, nn.Module] = {}
    for name, further in spec.further(where=where).items():
        with torch.random.fork_rng():
            torch.manual_seed(spec.seed)
            found[name] = _build_network(further, folder, where=f"networks.{name}")
    return found


def _task(spec: TaskSpec, folder: Path) -> Task:
    scores = tuple(_score(metric, folder, where=f"task.metrics[{i}]") for i, metric in enumerate(spec.metrics))
    return Task(loss=loss_of(spec.loss, folder, where="task.loss"), scores=scores or CLASSIFICATION)


def _score(spec: MetricSpec, folder: Path, *, where: str) -> AnyScore:
    if spec.function is not None:
        function = resolve(spec.function, folder, where=f"{where}.function")
        name = spec.name or spec.function.rpartition(":")[2]
        if name in SCORES:
            raise SettingError(
                f"{where}: {name!r} is a metric of the package; give your function another name = "
                f'"my_{name}", or leave function out'
            )
        return Score(Metric(name, spec.unit or "fraction", -1 if spec.better == "less" else 1), function)
    name = spec.name or ""
    if name not in SCORES:
        raise SettingError(
            f"{where}.name = {name!r}: {nearest(name, SCORES)}; or name a function of your own: "
            'function = "file.py:function"'
        )
    score = SCORES[name]
    if spec.unit is None:
        return score
    if not score.metric.unit.startswith("target unit"):
        raise SettingError(f"{where}: the unit of {name} is {score.metric.unit!r}; leave unit out")
    return replace(score, metric=replace(score.metric, unit=spec.unit))


def _load_data(spec: JobSpec, folder: Path) -> Data:
    load = resolve(spec.data.load, folder, where="data.load")
    value = call_with(load, spec.data.arguments, where="data")
    if value is None:
        raise DataError(f"data.load = {spec.data.load!r} returned nothing; return (train, validation, test)")
    return Data.of(value, name=spec.data.load)
