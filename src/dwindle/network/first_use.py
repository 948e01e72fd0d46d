"""This file finds in which order a network uses its weights: whoever registers a layer first need not call it first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode  # ruff: ignore[import-private-name] (documented, has no other)

from dwindle.network.answers import answer
from dwindle.network.inputs import Inputs, tensors_in


def in_order_of_use(network: nn.Module, names: Sequence[str], example: Inputs) -> tuple[str, ...]:
    """Return those of `names`, parameters of `network`, that a run on `example` reads, in the order of the first time.

    Whatever computes with a weight counts: a call of its module, or `linear(x, other.weight)`.

    Raises:
        Exception: whatever the network raises on the example.

    >>> network = nn.ModuleDict({"head": nn.Linear(3, 2), "body": nn.Linear(4, 3), "idle": nn.Linear(1, 1)})
    >>> network.forward = lambda x: network["head"](network["body"](x))
    >>> in_order_of_use(network, ("head.weight", "body.weight", "idle.weight"), torch.ones(1, 4))
    ('body.weight', 'head.weight')
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    places = {parameters[name].data_ptr(): name for name in reversed(names) if parameters[name].numel()}
    with _Reads(places) as reads:
        answer(network, example)
    return tuple(reads.found)


class _Reads(TorchDispatchMode):
    """Notes which weights operations read; by where they lie, so that an alias is known, too."""

    def __init__(self, places: Mapping[int, str]) -> None:
        super().__init__()
        self.places = places
        self.found: dict[str, None] = {}

    def __torch_dispatch__(self, func: Callable[..., Any], _: Any, *called: Any) -> Any:
        args: Any = called[0] if called else ()
        kwargs: Any = called[1] if len(called) > 1 else {}
        for tensor in tensors_in([*args, *kwargs.values()]):
            if tensor.layout is torch.strided and tensor.numel():
                name = self.places.get(tensor.data_ptr())
                if name is not None:
                    self.found.setdefault(name)
        return func(*args, **kwargs)
