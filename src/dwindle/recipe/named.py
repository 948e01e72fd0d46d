"""This file finds which networks of the context a step names, and what is wrong with them: students and teachers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from dwindle.errors import NetworkError
from dwindle.network.answers import answer
from dwindle.network.distillation import Distillation
from dwindle.network.hints import hinting
from dwindle.network.inputs import Inputs
from dwindle.network.two_classes import OneOutput, as_logits
from dwindle.recipe.plain import describe_step
from dwindle.settings import nearest, to_plain
from dwindle.technique import Context, Technique


def named_by(step: Technique) -> tuple[str, ...]:
    """Return the names of the context's networks that `step` uses."""
    return named_in(to_plain(step))


def named_in(step: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the same for a step as it stands in a recipe.

    >>> named_in({"type": "Distill", "student": "small", "distillation": {"teachers": ["a", "b"]}})
    ('small', 'a', 'b')
    """
    distillation: Any = step.get("distillation")
    teachers = cast("Mapping[str, Any]", distillation).get("teachers") if isinstance(distillation, Mapping) else None
    listed: list[Any] = [step.get("student"), *(cast("list[Any]", teachers) if isinstance(teachers, list) else [])]
    return tuple(dict.fromkeys(name for name in listed if isinstance(name, str)))


def student_of(step: Technique) -> str | None:
    """Return the name of the network that takes the place of the model's own; None where that stays."""
    student = getattr(step, "student", None)
    return student if isinstance(student, str) else None


def name_problems(step: Technique, networks: Mapping[str, nn.Module]) -> Iterator[str]:
    """Yield which networks `step` names without their being there, and which of those that are hold no numbers."""
    for name in named_by(step):
        if name not in networks:
            yield (
                f"names the network {name!r}, which the context does not offer; {nearest(name, networks)}; give it in "
                "Context(networks=...)"
            )
        elif not isinstance(cast("object", networks[name]), nn.Module):
            yield f"names the network {name!r}, which is {type(networks[name]).__name__}; give an nn.Module"
        elif bad := [key for key, tensor in networks[name].state_dict().items() if not _is_finite(tensor)]:
            yield f"names the network {name!r}, which holds NaN or infinite values in {bad[0]!r}; train it again"


def answer_problems(steps: Sequence[Technique], context: Context, network: nn.Module) -> list[str]:
    """Return which students their teachers cannot teach; both are asked about the example.

    Args:
        steps: in order; every network that they name is there.
        context: with an example.
        network: the model's own, which trains or teaches until a student takes its place.
    """
    problems: list[str] = []
    for number, step in enumerate(steps, start=1):
        student, distillation = student_of(step), getattr(step, "distillation", None)
        trained = network if student is None else context.networks[student]
        if isinstance(distillation, Distillation) and context.example is not None:
            label = f"step {number}, {describe_step(step)}, cannot be taught"
            for teacher in _teachers(step, context, network):
                found = (
                    ""
                    if distillation.alpha == 1
                    else _difference(trained, teacher, context.example, one_output=distillation.one_output),
                    _hint_problem(distillation, trained, teacher, example=context.example),
                )
                problems.extend(f"{label}: {words}" for words in found if words)
        network = trained
    return problems


def _teachers(step: Technique, context: Context, network: nn.Module) -> list[nn.Module]:
    """Return from whom `step` learns, before which the model's own network is `network`."""
    named = cast("Distillation", getattr(step, "distillation", None)).teachers
    if named:
        return [context.networks[name] for name in named]
    is_model = student_of(step) is not None and getattr(step, "teacher", "model") == "model"
    teacher = network if is_model else context.teacher
    return [] if teacher is None else [teacher]


def _difference(student: nn.Module, teacher: nn.Module, example: Inputs, *, one_output: OneOutput | None) -> str:
    """Return in which the answers differ; nothing where the one can learn from the other."""
    shapes: list[tuple[int, ...] | str] = []
    for who, network in (("student", student), ("teacher", teacher)):
        try:
            found = as_logits(answer(network, example), one_output)
        except Exception as error:  # ruff: ignore[blind-except] (a user's own code)
            return f"its {who} does not take the example ({type(error).__name__}: {error})"
        shapes.append(tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__)
    ours, theirs = shapes
    if ours == theirs and isinstance(ours, tuple) and len(ours) > 1 and ours[1] > 1:
        return ""
    return (
        f"its student answers {ours} and its teacher {theirs}; both must give one tensor of scores (batch, classes) of "
        "the same classes, at least two; of one output say in the distillation what it is: one_output"
    )


def _hint_problem(distillation: Distillation, student: nn.Module, teacher: nn.Module, *, example: Inputs) -> str:
    """Return why hints cannot be followed; they are tried on copies."""
    if not distillation.hints:
        return ""
    ours, theirs = copy.deepcopy(student), copy.deepcopy(teacher)
    try:
        with hinting(distillation.hints, student=ours, teacher=theirs, example=example, seed=0):
            return ""
    except NetworkError as error:
        return str(error)
    except Exception as error:  # ruff: ignore[blind-except] (a user's own code)
        return f"its student or its teacher does not take the example ({type(error).__name__}: {error})"


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
