"""This file lets recurrent layers pass a trace that knows none: opaque modules stand for them while it is made."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from dwindle.network.inputs import tensors_in


class StandIn(nn.Module):
    """Answers what a recurrent layer answers, as one operation without parameters."""

    def __init__(self, recurrent: nn.RNNBase) -> None:
        super().__init__()
        self._held = (recurrent,)

    @property
    def stands_for(self) -> nn.RNNBase:
        """That layer."""
        return self._held[0]

    def forward(self, x: Any, *states: Any) -> Any:
        """Return outputs and states that depend on `x` by one operation, whichever of them is used."""
        with torch.no_grad():
            answer = self.stands_for(x, *states)
        if not isinstance(x, Tensor):
            return answer
        outputs = cast("Sequence[Tensor]", _Opaque.apply(x, *tensors_in(answer)))
        return outputs[0], outputs[1] if len(outputs) == 2 else tuple(outputs[1:])


class _Opaque(torch.autograd.Function):
    """Returns its further arguments as if they were computed from the first."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return tuple(one.clone() for one in arguments[2:])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, ...]:
        return (None,) * (1 + len(grad_outputs))


class Sizes:
    """What Torch-Pruning asks of whoever cuts modules of a kind: how many channels go in and come out."""

    def get_in_channels(self, layer: StandIn) -> int:
        """Return how many numbers a step has."""
        return layer.stands_for.input_size

    def get_out_channels(self, layer: StandIn) -> int:
        """Return how many units all directions of a layer have."""
        return layer.stands_for.hidden_size * (2 if layer.stands_for.bidirectional else 1)

    def prune_in_channels(self, layer: StandIn, idxs: list[int]) -> None:
        """Do nothing: groups are read, not cut there."""

    def prune_out_channels(self, layer: StandIn, idxs: list[int]) -> None:
        """Do nothing, either."""


@contextmanager
def standing_in(network: nn.Module) -> Generator[None]:
    """Put stand-ins in the places of the recurrent layers inside `network`, until the block is left."""
    places = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.RNNBase)
    ]
    stands: dict[int, StandIn] = {}
    try:
        for parent, name, child in places:
            setattr(parent, name, stands.setdefault(id(child), StandIn(child).eval()))
        yield
    finally:
        for parent, name, child in places:
            setattr(parent, name, child)
