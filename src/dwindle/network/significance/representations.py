"""This file shows what passes through the layers of a network, one value at a time, as points of a space.

All examples go through the captured graph together, operation by operation; a value is turned into points and handed
on as soon as it is there, and is freed after its last use. So each value is computed once, and never are all of them in
memory. How many examples there can be follows from the most values that are alive at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, fx, nn

from dwindle.errors import DataError, NetworkError
from dwindle.network.activations import CallSite
from dwindle.network.capture import Captured, capture
from dwindle.network.inputs import Inputs, as_tuple, join, n_examples, take
from dwindle.network.observe import Observer, check_batches
from dwindle.network.placement import TRANSPARENT
from dwindle.network.significance.criterion import Evidence
from dwindle.network.significance.passages import RESHAPING, Passage, Value, find_passages, operation
from dwindle.network.significance.weights import own_names

View = Literal["channels", "flat"]
"""What is one point: the channels at one position of one example, or everything of one example."""
MAX_ALIVE: Final = 1 << 28
"""At most so many numbers are alive at a time: 1 GiB of float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which points a value gives.

    Attributes:
        view: what is one point.
        n_examples: how many inputs are looked at, at most.
        max_points: how many vectors of channels are looked at, at most: of each example equally many positions, drawn
            without replacement; in the flat view nothing is drawn.
        n_least: how many inputs there must be.
    """

    view: View
    n_examples: int
    max_points: int
    n_least: int


Estimate = Callable[[Tensor], float]
"""Returns the dimension of points (n, d), float32; a DataError says that it cannot be told."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The dimensions of what one call of a layer reads and makes, and the smaller number of points of the two."""

    before: float
    after: float
    n_points: int


def measure_passages(
    network: nn.Module, evidence: Evidence, names: Sequence[str], *, sampling: Sampling, estimate: Estimate
) -> dict[str, list[Measured]]:
    """Return the dimensions of the values before and after each of `names`, once for every call of the layer.

    Args:
        network: stays as it is; it runs in eval mode.
        evidence: its inputs are looked at, the first ones.
        names: weights of layers. Those without a value before and after are left out (embeddings, layers that are never
            called, those in whose values examples share an axis with something else), and so are those whose dimension
            cannot be told.
        sampling: which points a value gives.
        estimate: called once for each value, whichever layers it lies between.

    Raises:
        DataError: no inputs, too few, or some that are unlike the example; or the dimension of no layer can be told.
        NetworkError: the network cannot be captured or run, or a value is NaN or infinite.
    """
    own = own_names(network, names)
    captured = evidence.captured or capture(network, evidence.example)
    n_fitting = max(1, MAX_ALIVE // _numbers_alive(captured, n_examples(evidence.example)))
    inputs = _first(evidence, min(sampling.n_examples, n_fitting))
    if n_examples(inputs) < sampling.n_least:
        raise DataError(
            f"the dimension of a layer's values needs {sampling.n_least} inputs or more, got {n_examples(inputs)}; "
            + _remedy(sampling, n_fitting=n_fitting)
        )
    if not captured.dynamic_batch:
        captured = capture(network, inputs, any_batch=False)
    passages = {name: found for name, found in find_passages(captured).items() if name in own.values()}
    watched = _Watched(captured=captured, passages=passages, sampling=sampling, estimate=estimate, evidence=evidence)
    watched.run(inputs)
    told = {name: watched.told(passages.get(first, [])) for name, first in own.items()}
    found = {name: calls for name, calls in told.items() if calls}
    if watched.refusals and not found:
        raise watched.refusals[0]
    return found


def as_points(value: Tensor, where: Value, view: View) -> Tensor:
    """Return `value` as (examples, positions, channels), or, in the flat view, as (examples, 1, everything).

    >>> place = Value(CallSite("conv", 0), 0, 1)
    >>> tuple(as_points(torch.zeros(2, 3, 4, 5), place, "channels").shape)
    (2, 20, 3)
    """
    if view == "flat" or value.ndim < 2:
        return value.movedim(where.batch_axis, 0).flatten(1).unsqueeze(1)
    if where.channel_axis == where.batch_axis:
        return value.movedim(where.batch_axis, 0).flatten(1).unsqueeze(1)
    moved = value.movedim((where.batch_axis, where.channel_axis), (0, -1))
    return moved.reshape(moved.shape[0], -1, moved.shape[-1])


def draw(points: Tensor, *, max_points: int, seed: int) -> Tensor:
    """Return (n, d) of `points` (examples, positions, d): all, or equally many positions of each example.

    >>> tuple(draw(torch.zeros(4, 9, 3), max_points=20, seed=0).shape)
    (20, 3)
    """
    n, n_positions, width = points.shape
    each = max(1, max_points // n)
    if n_positions == 1 or each >= n_positions:
        return points.reshape(-1, width)
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(n, n_positions, generator=generator).argsort(1)[:, :each].to(points.device)
    return points.gather(1, numbers.unsqueeze(-1).expand(-1, -1, width)).reshape(-1, width)


class _Watched:
    """The dimensions of the values that layers lie between."""

    def __init__(
        self,
        *,
        captured: Captured,
        passages: dict[str, list[Passage]],
        sampling: Sampling,
        estimate: Estimate,
        evidence: Evidence,
    ) -> None:
        self.captured, self.passages, self.sampling = captured, passages, sampling
        self.estimate, self.evidence = estimate, evidence
        ends = [end for found in passages.values() for passage in found for end in (passage.before, passage.after)]
        self.wanted = {end.site: end for end in reversed(ends)}
        self.found: dict[CallSite, tuple[float | None, int]] = {}
        self.refusals: list[DataError] = []

    def run(self, inputs: Inputs) -> None:
        """Look at every wanted value."""
        module, site_of = self.captured.module()
        if self.wanted:
            with torch.no_grad():
                Observer(module, {name: s for name, s in site_of.items() if s in self.wanted}, self._look).run(
                    *as_tuple(inputs)
                )

    def told(self, passages: Iterable[Passage]) -> list[Measured]:
        """Return the dimensions along `passages`, less those that cannot be told."""
        pairs = [(self.found[passage.before.site], self.found[passage.after.site]) for passage in passages]
        return [
            Measured(before, after, min(n_before, n_after))
            for (before, n_before), (after, n_after) in pairs
            if before is not None and after is not None
        ]

    def _look(self, site: CallSite, value: Tensor) -> None:
        if not math.isfinite(float(value.sum())) and not bool(value.isfinite().all()):
            raise NetworkError(
                f"the value at {site} becomes NaN or infinite on the inputs; check that the data is normalized as in "
                "training"
            )
        points = as_points(value, self.wanted[site], self.sampling.view)
        if self.sampling.view == "channels":
            points = draw(points, max_points=self.sampling.max_points, seed=self.evidence.seed)
        else:
            points = points.squeeze(1)
        try:
            dimension = self.estimate(points.float())
        except DataError as error:  # too few distinct points: a layer that hardly answers
            self.refusals.append(error)
            dimension = None
        self.found[site] = dimension, len(points)
        if self.evidence.report_progress is not None:
            self.evidence.report_progress("measure dimensions", len(self.found), len(self.wanted))


def _first(evidence: Evidence, n: int) -> Inputs:
    """Return the first `n` inputs, fewer where there are fewer."""
    if evidence.inputs is None:
        raise DataError("this criterion looks at inputs, and there are none; give calibration=[input batches]")
    parts: list[Inputs] = []
    n_taken = 0
    for batch in check_batches(evidence.inputs, evidence.example):
        parts.append(take(batch, slice(0, n - n_taken)))
        n_taken += n_examples(parts[-1])
        if n_taken >= n:
            break
    return join(parts)


def _numbers_alive(captured: Captured, n_in_graph: int) -> int:
    """Return how many numbers of one example are alive at most, while the graph runs in order; views are no copies."""
    nodes: list[fx.Node] = list(captured.program.graph.nodes)
    last_use = {source: i for i, node in enumerate(nodes) for source in node.all_input_nodes}
    size = {node: _numbers(node) for node in nodes}
    alive = most = 0
    for i, node in enumerate(nodes):
        alive += size[node]
        most = max(most, alive)
        alive -= sum(size[source] for source in node.all_input_nodes if last_use[source] == i)
    return max(1, most if captured.dynamic_batch else most // n_in_graph)


def _numbers(node: fx.Node) -> int:
    value = node.meta.get("val")
    if node.op == "placeholder" or operation(node) in TRANSPARENT | RESHAPING or not isinstance(value, Tensor):
        return 0
    sizes: list[Any] = list(value.shape)  # the batch, or a multiple of it, may be a symbol
    return math.prod(size for size in sizes if isinstance(size, int))


def _remedy(sampling: Sampling, *, n_fitting: int) -> str:
    """Return what to do about too few inputs: it depends on who allowed no more."""
    if n_fitting < sampling.n_least:
        return f"of so large a network no more than {n_fitting} fit into memory, take another criterion"
    return "raise n_examples" if sampling.n_examples < sampling.n_least else "give more calibration data"
