"""This file lets recurrent layers pass a trace that knows no recurrence: each becomes one operation for a while."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from dwindle.network.inputs import tensors_in


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

    def get_in_channels(self, layer: nn.RNNBase) -> int:
        """Return how many numbers a step has."""
        return layer.input_size

    def get_out_channels(self, layer: nn.RNNBase) -> int:
        """Return how many numbers all directions of a layer answer."""
        return (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)

    def prune_in_channels(self, layer: nn.RNNBase, idxs: list[int]) -> None:
        """Do nothing: groups are read, not cut there."""

    def prune_out_channels(self, layer: nn.RNNBase, idxs: list[int]) -> None:
        """Do nothing, either."""


@contextmanager
def opaque_recurrence(network: nn.Module) -> Generator[dict[type[nn.Module], Sizes]]:
    """Make the recurrent layers of `network` opaque until the block is left; yield who knows the sizes of each kind.

    Outputs and states then depend on the first input by one operation without parameters, whichever of them is used.
    The modules stay in their places, since code may ask them for their sizes.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.RNNBase)]
    own = {id(layer): layer.__dict__["forward"] for layer in layers if "forward" in layer.__dict__}
    try:
        for layer in layers:
            layer.__dict__["forward"] = _opaque(layer.forward)
        yield {type(layer): Sizes() for layer in layers}
    finally:
        for layer in layers:
            del layer.__dict__["forward"]
            if id(layer) in own:
                layer.__dict__["forward"] = own[id(layer)]


def _opaque(forward: Callable[..., Any]) -> Callable[..., Any]:
    def answer(*arguments: Any, **named: Any) -> Any:
        x = arguments[0] if arguments else named["input"]
        with torch.no_grad():
            found = forward(*arguments, **named)
        if not isinstance(x, Tensor):  # a packed sequence
            return found
        outputs = cast("Sequence[Tensor]", _Opaque.apply(x, *tensors_in(found)))
        return outputs[0], outputs[1] if len(outputs) == 2 else tuple(outputs[1:])

    return answer
