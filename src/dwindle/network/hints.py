"""This file lets a student learn from what layers inside its teacher say, not only from the teacher's answers.

Named modules of both are watched while they answer. Where a student's module has other channels than its teacher's, a
small linear map is learned between them (in a convolutional network a 1 x 1 convolution). The weight of a map belongs
to the student's network while it trains, so that whoever trains it finds the weight and keeps it in checkpoints; it is
taken away when the training is over and reaches no file.

Reference: A. Romero et al., "FitNets: hints for thin deep nets", 2015.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.errors import NetworkError
from dwindle.network.answers import answer
from dwindle.network.inputs import Inputs

Pairs = Sequence[tuple[str, str]]
"""Module of the student, module of its teacher."""
PARAMETER: Final = "hint_map_{}"


class Watched:
    """What named modules of a network answered when it was last called; of a module called twice, the last answer."""

    def __init__(self, network: nn.Module, paths: Iterable[str], *, whose: str) -> None:
        self._whose: Final = whose
        self._answers: Final[dict[str, Tensor]] = {}
        modules = dict(network.named_modules())
        wanted = list(dict.fromkeys(paths))
        for path in wanted:
            if path not in modules:
                near = difflib.get_close_matches(path, [name for name in modules if name], n=3, cutoff=0.0)
                raise NetworkError(
                    f"hints name the module {path!r}, which the {whose} does not have; the nearest names are {near}"
                )
        self._handles: Final = [modules[path].register_forward_hook(self._keeper(path)) for path in wanted]

    def take(self, path: str) -> Tensor:
        """Return the last answer of the module `path`.

        Raises:
            NetworkError: it was not called, or answered with something else than a tensor.
        """
        if path not in self._answers:
            raise NetworkError(
                f"hints name the module {path!r} of the {self._whose}, which gave no tensor when the network was "
                "called; name one that is called and returns a tensor"
            )
        return self._answers[path]

    def forget(self) -> None:
        """Let go of what was answered."""
        self._answers.clear()

    def remove(self) -> None:
        """Stop watching; leaves nothing behind."""
        for handle in self._handles:
            handle.remove()
        self.forget()

    def _keeper(self, path: str) -> Any:
        def keep(module: nn.Module, inputs: object, output: object) -> None:
            del module, inputs
            first = cast("tuple[object, ...]", output)[0] if isinstance(output, tuple) and output else output
            if isinstance(first, Tensor):
                self._answers[path] = first.clone()  # what comes next may write into it in place

        return keep


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """How a student's answer becomes comparable: a linear map along `axis`, its weight (out, in) under `name`."""

    axis: int
    name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Hints:
    """How far a student's modules are from those of its teacher, after both have answered the same batch.

    Attributes:
        pairs: module of the student, module of its teacher.
        maps: by number of the pair, what is learned between them; none where the shapes agree.
        network: the student, which holds the parameters of the maps.
        student: its modules, watched.
        teacher: those of its teacher.
    """

    pairs: Pairs
    maps: Mapping[int, Map]
    network: nn.Module
    student: Watched
    teacher: Watched

    def distance(self) -> Tensor:
        """Return the mean squared distance, averaged over the pairs, as a scalar; what was watched is let go of.

        Raises:
            NetworkError: a module was not called, or its answer has another shape than its teacher's.
        """
        distances: list[Tensor] = []
        for number, (ours, theirs) in enumerate(self.pairs):
            found, wanted = self.student.take(ours).float(), self.teacher.take(theirs).float()
            if number in self.maps:
                found = self._mapped(found, self.maps[number])
            if found.shape != wanted.shape:
                raise NetworkError(_mismatch((ours, theirs), found, wanted))
            distances.append(functional.mse_loss(found, wanted))
        self.student.forget()
        self.teacher.forget()
        return torch.stack(distances).mean()

    def _mapped(self, found: Tensor, learned: Map) -> Tensor:
        weight = self.network.get_parameter(learned.name)
        return functional.linear(found.movedim(learned.axis, -1), weight).movedim(-1, learned.axis).float()


@contextmanager
def hinting(pairs: Pairs, *, student: nn.Module, teacher: nn.Module, example: Inputs, seed: int) -> Generator[Hints]:
    """Yield the hints of `pairs`; until the block is left, `student` holds the parameters of maps.

    Args:
        pairs: module of the student, module of its teacher.
        student: the network that is about to be trained.
        teacher: stays as it is, but is watched.
        example: one batch, by which shapes are found.
        seed: of the first values of maps.

    Raises:
        NetworkError: a module does not exist or gives no tensor, or the answers of a pair differ in more than channels.
    """
    watched: list[Watched] = []
    maps: dict[int, Map] = {}
    try:
        for network, paths, whose in (
            (student, [ours for ours, _ in pairs], "student"),
            (teacher, [theirs for _, theirs in pairs], "teacher"),
        ):
            watched.append(Watched(network, paths, whose=whose))
            answer(network, example)
        ours, theirs = watched
        for number, (first, second) in enumerate(pairs):
            sizes = _sizes((first, second), ours.take(first), theirs.take(second))
            if sizes is not None:
                maps[number] = _add_map(student, sizes, number=number, seed=seed)
        yield Hints(pairs=pairs, maps=maps, network=student, student=ours, teacher=theirs)
    finally:
        for one in watched:
            one.remove()
        for learned in maps.values():
            delattr(student, learned.name)


def _sizes(pair: tuple[str, str], found: Tensor, wanted: Tensor) -> tuple[int, int, int] | None:
    """Return along which axis the answers differ, and how long it is in each; None where they agree.

    Raises:
        NetworkError: they differ along more than one axis, or along one that holds no channels.
    """
    if found.shape == wanted.shape:
        return None
    pairs = enumerate(zip(found.shape, wanted.shape, strict=False))
    axes = [axis for axis, (n, m) in pairs if n != m]
    channels = {1, 2} if found.ndim == 3 else {1}  # (batch, channels, time) or (batch, time, features)
    if found.ndim != wanted.ndim or len(axes) != 1 or axes[0] not in channels:
        raise NetworkError(_mismatch(pair, found, wanted))
    return axes[0], found.shape[axes[0]], wanted.shape[axes[0]]


def _mismatch(pair: tuple[str, str], found: Tensor, wanted: Tensor) -> str:
    return (
        f"hints pair {pair[0]!r}, which answers {tuple(found.shape)}, with {pair[1]!r} of the teacher, which answers "
        f"{tuple(wanted.shape)}; name modules whose answers differ in the number of channels at most"
    )


def _add_map(student: nn.Module, sizes: tuple[int, int, int], *, number: int, seed: int) -> Map:
    """Give `student` the weight of a map; it starts at random, with the variance of its input."""
    axis, n_in, n_out = sizes
    name = PARAMETER.format(number)
    while hasattr(student, name):
        name = f"_{name}"
    generator = torch.Generator().manual_seed(seed + number)
    device = next((p.device for p in student.parameters()), torch.device("cpu"))
    weight = torch.randn(n_out, n_in, generator=generator) / math.sqrt(n_in)
    student.register_parameter(name, nn.Parameter(weight.to(device)))
    return Map(axis=axis, name=name)
