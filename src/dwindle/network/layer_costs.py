"""This file says what each layer of a network is and costs: kind, shape, bytes, multiplications for one example."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor, nn

from dwindle.network.answers import answer
from dwindle.network.inputs import Inputs, n_examples, tensors_in
from dwindle.network.select import CONVOLUTIONS

READ_BY_PLACE: Final = (
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.RNNBase, nn.MultiheadAttention,
)  # fmt: skip
"""Modules whose weights are used once for each place of what they read."""
_WIDTHS: Final = ("in_channels", "input_size", "embed_dim")
"""What these modules call the width of a place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """One weight of a layer.

    Attributes:
        kind: class name of the module that holds it.
        shape: of the weight.
        n_weights: number of its elements.
        dense_bytes: of these as float32.
        macs: multiplications with these weights for one example; None where the network could not be run.
        n_calls: how often its module was called for one batch; None where the network could not be run.
        n_answered: numbers that it answers one example with; None where the network could not be run.
    """

    kind: str
    shape: tuple[int, ...]
    n_weights: int
    dense_bytes: int
    macs: int | None = None
    n_calls: int | None = None
    n_answered: int | None = None


@dataclass(slots=True)
class _Tally:
    """Places at which weights were used and numbers answered, over the batch, and calls, by name of the weight."""

    places: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    answered: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    calls: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))


def layer_costs(network: nn.Module, names: Sequence[str], example: Inputs | None) -> dict[str, LayerCost]:
    """Return what each of `names`, weights of `network`, costs; without `example` nothing is run.

    A weight matrix that is used at p places of an example costs p times its elements: the output positions of a
    convolution (input positions of a transposed one), the rows of a linear layer, the steps of a recurrent one. Looking
    a row up in an embedding multiplies nothing. Weights that are used otherwise than by calling their module count 0.

    Raises:
        Exception: whatever the network raises on the example.

    >>> network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 2))
    >>> [cost.macs for cost in layer_costs(network, ("0.weight", "2.weight"), torch.ones(2, 1, 8, 8)).values()]
    [2304, 512]
    """
    tally = None if example is None else _run(network, names, example)
    batch = 1 if example is None else n_examples(example)
    parameters = dict(network.named_parameters())
    return {
        name: LayerCost(
            kind=type(_owner(network, name)).__name__,
            shape=tuple(parameters[name].shape),
            n_weights=parameters[name].numel(),
            dense_bytes=4 * parameters[name].numel(),
            macs=None if tally is None else tally.places[name] * parameters[name].numel() // batch,
            n_calls=None if tally is None else tally.calls[name],
            n_answered=None if tally is None else tally.answered[name] // batch,
        )
        for name in names
    }


def _owner(network: nn.Module, name: str) -> nn.Module:
    return network.get_submodule(name.rpartition(".")[0])


def _run(network: nn.Module, names: Sequence[str], example: Inputs) -> _Tally:
    """Run the network once and note what its modules are called with; hooks are gone afterwards."""
    tally = _Tally()
    by_parameter = {id(parameter): name for name, parameter in network.named_parameters() if name in set(names)}
    handles: list[Any] = []
    try:
        for module in network.modules():
            weights = {by_parameter[id(p)]: p for p in _weights_of(module) if id(p) in by_parameter}
            if weights:
                handles.append(module.register_forward_hook(_hook(tally, weights), with_kwargs=True))
        answer(network, example)
    finally:
        for handle in handles:
            handle.remove()
    return tally


def _weights_of(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    if isinstance(module, nn.MultiheadAttention):  # it multiplies with this weight without calling the layer
        yield module.out_proj.weight


def _hook(tally: _Tally, weights: Mapping[str, Tensor]) -> Any:
    def note(module: nn.Module, inputs: tuple[Any, ...], *others: Any) -> None:
        *keywords, output = others
        given, answered = tensors_in([*inputs, *keywords]), tensors_in(output)
        if given and answered:
            for name, weight in weights.items():
                tally.calls[name] += 1
                tally.answered[name] += answered[0].numel()
                tally.places[name] += _places(module, weight, given=given[0], answered=answered[0])

    return note


def _places(module: nn.Module, weight: Tensor, *, given: Tensor, answered: Tensor) -> int:
    """Return at how many places `weight` was used, over all examples of the batch."""
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return 0
    if isinstance(module, READ_BY_PLACE):  # as many as what it reads has
        width = next(getattr(module, name) for name in _WIDTHS if hasattr(module, name))
        return given.numel() // max(1, width)
    if isinstance(module, CONVOLUTIONS):
        return answered.numel() // max(1, module.out_channels)
    if isinstance(module, nn.RNNCellBase):  # a weight holds several gates
        return answered.numel() // max(1, module.hidden_size)
    return answered.numel() // max(1, weight.shape[0])
