"""This file turns a job.toml into a job: it runs the user's own functions and reads the checkpoint, never a pickle."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dwindle.bench.budget import Budget
from dwindle.errors import DataError, NetworkError, SettingError
from dwindle.job.job import Data, Job
from dwindle.job.spec import JobSpec, read_job
from dwindle.network.checkpoint import load_checkpoint
from dwindle.network.fabric_trainer import FabricTrainer
from dwindle.network.train import Progress
from dwindle.recipe import Recipe


def load_job(path: Path, *, out: Path | None = None, report_progress: Progress | None = None) -> Job:
    """Return the job that `path` (a job.toml) describes; paths in it are relative to its folder.

    Raises:
        DwindleError: whatever cannot be loaded: one error with the place, the value and the remedy.
    """
    spec, folder = read_job(path), path.resolve().parent
    recipe = Recipe.from_plain(spec.recipe, where=f"{path}: recipe")
    budget = Budget.from_plain(spec.budget, where=f"{path}: budget") if spec.budget else None
    with torch.random.fork_rng():
        torch.manual_seed(spec.seed)
        network = _build_network(spec, folder)
    data = _load_data(spec, folder)
    target = out if out is not None else (folder / spec.output.folder).resolve()
    augment = resolve(spec.training.augment, folder, where="training.augment") if spec.training.augment else None
    trainer = FabricTrainer(
        train=data.train,
        validation=data.validation,
        batch_size=spec.training.batch_size,
        learning_rate=spec.training.learning_rate,
        augment=augment,
        precision=spec.training.precision,
        patience=spec.training.patience,
        workdir=target / "work",
        report_progress=report_progress,
    )
    return Job(
        name=spec.name,
        network=network,
        data=data,
        recipe=recipe,
        trainer=trainer,
        out=target,
        seed=spec.seed,
        formats=spec.output.formats,
        budget=budget,
        baseline_trains_equally=spec.training.baseline_trains_equally,
        n_calibration=spec.data.n_calibration,
        latency_seconds=spec.output.latency_seconds,
        command=f"dwindle compress {path.name}",
    )


def resolve(reference: str, folder: Path, *, where: str) -> Callable[..., Any]:
    """Return the function that `file.py:function` or `package.module:function` names; files are relative to `folder`.

    Raises:
        SettingError: the reference has another form, or there is no such file, module or function.
    """
    module_name, colon, function_name = reference.rpartition(":")
    if not colon or not module_name or not function_name.isidentifier():
        raise SettingError(f"{where} = {reference!r}: write it as path/to/file.py:function")
    module = (
        _import_file(folder / module_name, where) if module_name.endswith(".py") else _import_module(module_name, where)
    )
    function = getattr(module, function_name, None)
    if not callable(function):
        known = sorted(name for name, value in vars(module).items() if callable(value) and not name.startswith("_"))
        raise SettingError(f"{where} = {reference!r}: {module_name} has no function {function_name!r}; it has {known}")
    return function


def _import_file(path: Path, where: str) -> Any:
    """Import a file once, as Python would if it were started from its folder: its neighbours can be imported, too."""
    path = path.resolve()
    if not path.is_file():
        raise SettingError(f"{where}: there is no file {path}; paths are relative to the job file")
    name = f"dwindle_job_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SettingError(f"{where}: {path} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        del sys.modules[name]
        raise SettingError(f"{where}: {path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _import_module(name: str, where: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SettingError(f"{where}: module {name!r} cannot be imported ({error})") from error


def _build_network(spec: JobSpec, folder: Path) -> nn.Module:
    build = resolve(spec.network.build, folder, where="network.build")
    network = _call(build, spec.network.arguments, "network")
    if not isinstance(network, nn.Module):
        raise NetworkError(
            f"network.build = {spec.network.build!r} returned {type(network).__name__}, not an nn.Module"
        )
    load_checkpoint(network, folder / spec.network.checkpoint)
    return network


def _load_data(spec: JobSpec, folder: Path) -> Data:
    load = resolve(spec.data.load, folder, where="data.load")
    value = _call(load, spec.data.arguments, "data")
    if value is None:
        raise DataError(f"data.load = {spec.data.load!r} returned nothing; return (train, validation, test)")
    return Data.of(value, name=spec.data.load)


def _call(function: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> Any:
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise SettingError(f"{where}.arguments = {dict(arguments)}: {error}") from error
    return function(**arguments)
