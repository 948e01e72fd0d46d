"""This file finds what would stop a study hours into it: functions that are not there, steps out of order."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from dwindle.bench.probes.scores import SCORES
from dwindle.errors import SettingError
from dwindle.job.losses import loss_of
from dwindle.job.resolve import resolve
from dwindle.recipe.check import find_problems
from dwindle.recipe.named import named_in
from dwindle.settings import NONE, nearest
from dwindle.studies.plan import Node
from dwindle.technique import Needs, Trait

FUNCTIONS: Final = ("augment", "reform", "schedule", "optimizer")
"""Settings of the training that name a function."""
N_SHOWN: Final = 10


def require_sound(nodes: Sequence[Node], home: Path) -> None:
    """Refuse a plan that cannot work; it imports the functions that `nodes` name, and calls none of them.

    Raises:
        SettingError: all problems that were found.
    """
    problems = list(dict.fromkeys(problem for node in _distinct(nodes) for problem in _problems(node, home)))
    if problems:
        more = [f"and {len(problems) - N_SHOWN} more"] if len(problems) > N_SHOWN else []
        listed = "\n".join(f"- {problem}" for problem in (*problems[:N_SHOWN], *more))
        raise SettingError(problems[0] if len(problems) == 1 else f"{len(problems)} problems:\n{listed}")


def _distinct(nodes: Sequence[Node]) -> Iterable[Node]:
    """Return one of those that differ in nothing but the seed."""
    return {
        json.dumps([node.case.name, _chain(node), node.training, node.load_arguments, node.networks], default=str): node
        for node in nodes
    }.values()


def _chain(node: Node) -> list[Any]:
    """Return the steps of a node behind those of the nodes that it comes from."""
    return [step for ancestor in _line(node) for step in ancestor.steps]


def _problems(node: Node, home: Path) -> Iterator[str]:
    where = f"{node.case.name}, stage {node.stage.name!r}"
    yield from _function_problems(node.case.build, node.build_arguments, home, where=f"{node.case.name}: build")
    yield from _function_problems(node.case.load, node.load_arguments, home, where=f"{node.case.name}: load")
    for name, built in node.networks.items():
        arguments = built.get("arguments", {})
        yield from _function_problems(built["build"], arguments, home, where=f"{node.case.name}: networks.{name}.build")
    yield from (f"{where}: {problem}" for problem in _named_problems(node))
    yield from (f"{where}: {problem}" for problem in (*_training_problems(node), *_measure_problems(node)))
    for name in FUNCTIONS:
        reference = node.training[name]
        if reference is None or reference == NONE:
            continue
        if isinstance(reference, str):
            yield from _function_problems(reference, None, home, where=f"{where}: training.{name}")
        else:
            yield f"{where}: training.{name} = {reference!r}; name a function, or {NONE!r}"
    loss = node.training.get("loss")
    if loss is not None and loss != NONE:
        yield from _loss_problems(loss, home, where=f"{where}: training.loss")
    line = _line(node)
    steps = [step for ancestor in line for step in ancestor.recipe.steps]
    offers = ~Needs.NOTHING
    if all(ancestor.early is None for ancestor in line):
        offers &= ~Needs.EARLY
    yield from (f"{where}: {problem}" for problem in find_problems(steps, offers, Trait.NOTHING))


def _loss_problems(reference: Any, home: Path, *, where: str) -> Iterator[str]:
    try:
        loss_of(reference, home, where=where)
    except SettingError as error:
        yield str(error)


def _line(node: Node) -> list[Node]:
    """Return the ancestors of a node, the first of them first, and the node."""
    return [*([] if node.parent is None else _line(node.parent)), node]


def _function_problems(reference: str, arguments: Any, home: Path, *, where: str) -> Iterator[str]:
    try:
        function = resolve(reference, home, where=where)
    except SettingError as error:
        yield str(error)
        return
    if arguments is not None and (words := _refusal(function, arguments)):
        yield f"{where} = {reference!r} with arguments {arguments}: {words}"


def _refusal(function: Callable[..., Any], arguments: Any) -> str:
    """Return why `function` does not take `arguments`; nothing where it does, or does not tell what it takes."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(**arguments)
    except TypeError as error:
        return str(error)
    return ""


def _named_problems(node: Node) -> Iterator[str]:
    """Yield which networks its steps name without there being any."""
    for name in dict.fromkeys(name for step in node.steps for name in named_in(step)):
        if name not in node.networks:
            known = nearest(name, node.case.networks)
            yield f"a step names the network {name!r}; {known}; say how to build it in the networks of the case"


def _training_problems(node: Node) -> Iterator[str]:
    """Yield what is wrong with the figures that training takes."""
    given = node.training
    batch_size, rate, patience = given["batch_size"], given["learning_rate"], given["patience"]
    if not _is_count(batch_size):
        yield f"training.batch_size = {batch_size!r}; give a whole number of at least 1"
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not (math.isfinite(rate) and rate > 0):
        yield f"training.learning_rate = {rate!r}; give a positive number"
    if patience not in (None, NONE) and not _is_count(patience):  # ruff: ignore[literal-membership] (not hashable?)
        yield f"training.patience = {patience!r}; give a whole number of at least 1, or {NONE!r}"


def _measure_problems(node: Node) -> Iterator[str]:
    """Yield what is wrong with what is measured."""
    seconds = node.measures.speedup_seconds
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not (math.isfinite(seconds) and seconds >= 0)
    ):
        yield f"measures.speedup_seconds = {seconds!r}; give a number of seconds, 0 for none"
    elif seconds and not node.measures.onnx:
        yield "measures.speedup_seconds times the .onnx; set measures.onnx = true"
    runs, wants = node.measures.profile_runs, node.measures
    if runs != 0 and not (_is_count(runs) and runs > 1):
        yield f"measures.profile_runs = {runs!r}; give a whole number of at least 2, or 0 for none"
    if not wants.onnx and (runs or wants.memory or wants.energy or not wants.whole_set):
        yield "measures.profile_runs, memory, energy and whole_set are about the .onnx; set measures.onnx = true"
    if unknown := [name for name in wants.scores if name not in SCORES]:
        yield f"measures.scores names {unknown[0]!r}; {nearest(unknown[0], SCORES)}"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
