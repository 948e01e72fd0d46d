"""This file measures how far the layers of a compressed network drift from a float one, and corrects their biases.

Rounding weights moves the mean of what a layer answers, and later layers see the shift: Nagel et al., "Data-Free
Quantization through Weight Equalization and Bias Correction", ICCV 2019, section 4.2. Both networks are captured graphs
with the same layers; of the compressed one nothing but biases changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from dwindle.network.activations import CallSite
from dwindle.network.inputs import Inputs, as_tuple, n_examples, take, tensors_in
from dwindle.network.placement import Layer

Progress = Callable[[int, int], None]
"""`report(done, total)`."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Mean of each channel, float64 (channels,), and the standard deviation within channels, of a layer's answers."""

    mean: Tensor
    deviation: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Watched:
    """A graph that can be run over batches, where its values are computed, and which of them linear layers compute."""

    graph: fx.GraphModule
    sites: Mapping[str, CallSite]
    linear: Collection[CallSite]

    def answers(self, inputs: Inputs) -> list[Tensor]:
        """Return every floating-point tensor that the graph answers to `inputs`."""
        return [tensor for tensor in tensors_in(self.graph(*as_tuple(inputs))) if tensor.is_floating_point()]

    def moments(self, batches: Iterable[Inputs], sites: Iterable[CallSite]) -> dict[CallSite, Moments]:
        """Return the moments of the values at `sites` over `batches`; nothing behind the last one is computed."""
        wanted = {name: site for name, site in self.sites.items() if site in set(sites)}
        sums: dict[CallSite, _Sums] = {}
        for batch in batches:
            with torch.no_grad():
                _Partial(self.graph, wanted, lambda site, value: self._add(sums, site, value)).run_partly(batch)
        return {site: found.moments() for site, found in sums.items()}

    def _add(self, sums: dict[CallSite, _Sums], site: CallSite, value: Tensor) -> None:
        # A convolution answers (batch, channels, ...), a linear layer (..., channels).
        axis = -1 if site in self.linear else 1
        rows = value.detach().movedim(axis, -1).flatten(0, -2).double()
        earlier = sums.get(site, _Sums(0, torch.zeros_like(rows[0]), torch.zeros_like(rows[0])))
        n_rows, total, squares = len(rows), rows.sum(0), rows.square().sum(0)
        sums[site] = _Sums(earlier.n + n_rows, earlier.total + total, earlier.squares + squares)


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    n: int
    total: Tensor
    squares: Tensor

    def moments(self) -> Moments:
        mean = self.total / self.n
        return Moments(mean, math.sqrt(float((self.squares / self.n - mean.square()).clamp(min=0).mean())))


class _Partial(fx.Interpreter):
    """Runs a graph node by node until every wanted value was shown."""

    def __init__(
        self, graph: fx.GraphModule, wanted: Mapping[str, CallSite], visit: Callable[[CallSite, Tensor], None]
    ) -> None:
        super().__init__(graph)
        self.wanted, self.visit = wanted, visit
        self.left = len(wanted)
        self.extra_traceback = False

    def run_partly(self, inputs: Inputs) -> None:
        try:
            self.run(*as_tuple(inputs))
        except _ReachedError:
            return

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.wanted:
            self.visit(self.wanted[n.name], value)
            self.left -= 1
            if self.left == 0:
                raise _ReachedError
        return value


class _ReachedError(Exception):
    """Nothing is left to look at."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """A compressed graph, the float one that it should answer like, and batches of inputs to compare them on."""

    compressed: Watched
    reference: Watched
    batches: list[Inputs]

    def error(self) -> float:
        """Return the root mean square difference of the answers, relative to that of the reference's answers."""
        differences = squares = 0.0
        for batch in self.batches:
            with torch.no_grad():
                for found, wanted in zip(self.compressed.answers(batch), self.reference.answers(batch), strict=True):
                    differences += float((found.double() - wanted.double()).square().sum())
                    squares += float(wanted.double().square().sum())
        return math.sqrt(differences / squares) if squares > 0 else math.sqrt(differences)

    def correct_means(self, layers: list[Layer], report: Progress) -> dict[str, float]:
        """Shift the biases of the compressed graph, in place, until each channel has the reference's mean.

        Each layer is measured with the layers before it corrected. Of a layer that is called several times the mean
        error over its calls is taken out.

        Returns:
            the root mean square shift of each layer's channels, relative to the deviation of its answers, by bias.
        """
        wanted = self.reference.moments(self.batches, [site for layer in layers for site in layer.sites])
        shifts: dict[str, float] = {}
        for number, layer in enumerate(layers, start=1):
            found = self.compressed.moments(self.batches, layer.sites)
            error = torch.stack([found[site].mean - wanted[site].mean for site in layer.sites]).mean(0)
            bias = self.compressed.graph.get_parameter(layer.bias)
            with torch.no_grad():
                bias.sub_(error.to(bias.dtype))
            deviation = wanted[layer.sites[0]].deviation
            shifts[layer.bias] = float(error.square().mean().sqrt()) / deviation if deviation > 0 else 0.0
            report(number, len(layers))
        return shifts

    def learn_biases(self, layers: list[Layer], report: Progress, *, steps: int, learning_rate: float) -> list[float]:
        """Descend, in place, on the biases of the compressed graph until its answers match the reference's.

        Adam, annealed to zero by a cosine; the learning rate of a layer is relative to the deviation of its answers.
        Batches are taken in order, again and again.

        Returns:
            the loss of every step: squared difference of the answers over the square of the reference's.
        """
        wanted = self.reference.moments(self.batches, [site for layer in layers for site in layer.sites])
        self.compressed.graph.requires_grad_(requires_grad=False)
        groups: list[dict[str, Any]] = []
        for layer in layers:
            bias = self.compressed.graph.get_parameter(layer.bias)
            bias.requires_grad = True
            groups.append({"params": [bias], "lr": learning_rate * wanted[layer.sites[0]].deviation})
        optimizer = torch.optim.Adam(groups)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        losses: list[float] = []
        for step in range(steps):
            losses.append(self._descend(optimizer, self.batches[step % len(self.batches)]))
            schedule.step()
            report(step + 1, steps)
        return losses

    def _descend(self, optimizer: torch.optim.Optimizer, batch: Inputs) -> float:
        with torch.no_grad():
            wanted = self.reference.answers(batch)
        with torch.enable_grad():
            loss = _difference(self.compressed.answers(batch), wanted)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        return float(loss.detach())


def first_examples(batches: Iterable[Inputs], n: int, *, may_cut: bool = True) -> Iterator[Inputs]:
    """Yield the first `n` examples of `batches`, the last batch cut where it has too many and `may_cut`."""
    n_done = 0
    for batch in batches:
        if n_done >= n:
            return
        yield take(batch, slice(0, n - n_done)) if may_cut else batch
        n_done += n_examples(batch)


def _difference(found: list[Tensor], wanted: list[Tensor]) -> Tensor:
    pairs = list(zip(found, wanted, strict=True))
    total = torch.stack([(a - b).square().sum() for a, b in pairs]).sum()
    return total / torch.stack([b.square().sum() for _, b in pairs]).sum().clamp(min=torch.finfo(torch.float32).tiny)
