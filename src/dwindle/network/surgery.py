"""This file makes a network physically smaller: it cuts indices out of parameters and buffers, and out of encodings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from dwindle.core.slicing import cut
from dwindle.errors import NetworkError
from dwindle.network.compressed import CompressedModel, RemovedChannels
from dwindle.network.select import CONVOLUTIONS

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """What goes out of one tensor: these indices, along this axis."""

    tensor: str
    axis: int
    indices: tuple[int, ...]


def remove(model: CompressedModel, cuts: Sequence[Cut]) -> CompressedModel:
    """Return `model` without what `cuts` name; every encoding keeps its structure, modules know their new sizes.

    Raises:
        NetworkError: a cut names a tensor that the model does not have, or one that another module shares.
        EncodingError: a cut takes everything, or an index or axis that does not exist.
    """
    changed = dict(model.encodings)
    cuts = merged(cuts)
    for one in cuts:
        if one.tensor not in changed or one.tensor in model.aliases.values():
            shared = "is shared by several modules" if one.tensor in changed else "is no encoded tensor of this model"
            raise NetworkError(f"channels cannot be cut out of {one.tensor!r}: it {shared}")
        changed[one.tensor] = cut(changed[one.tensor], one.axis, one.indices)
    if not cuts:
        return model
    network, held = copy.deepcopy(model.network), model.network.state_dict()
    names = {one.tensor for one in cuts}
    shapes = {name: _cut_shape(tuple(held[name].shape), name, cuts) for name in held if name in names}
    reshape(network, shapes)
    edits = (*model.edits, RemovedChannels(shapes))
    after = replace(model, network=network, encodings=changed, edits=edits)
    return after.with_encodings({name: changed[name] for name in shapes})


def reshape(network: nn.Module, shapes: Mapping[str, Shape]) -> None:
    """Give parameters and buffers of `network`, in place, the `shapes` named, filled with zeros; modules are told.

    Raises:
        NetworkError: the network has no tensor of that name.
    """
    touched: dict[str, nn.Module] = {}
    for name, shape in shapes.items():
        path, _, attribute = name.rpartition(".")
        module = _module(network, path, name)
        held = getattr(module, attribute, None)
        if not isinstance(held, Tensor):
            raise NetworkError(_lacks(network, name))
        zeros = torch.zeros(shape, dtype=held.dtype, device=held.device)
        if isinstance(held, nn.Parameter):
            setattr(module, attribute, nn.Parameter(zeros, requires_grad=held.requires_grad))
        else:
            setattr(module, attribute, zeros)
        touched[path] = module
    for module in touched.values():
        tell_sizes(module)


def tell_sizes(module: nn.Module) -> None:
    """Set the attributes that say how large `module` is from the shapes of its tensors; unknown modules are left."""
    for kind, sizes in SIZES.items():
        if isinstance(module, kind):
            for attribute, value in sizes(module).items():
                setattr(module, attribute, value)
            return


def merged(cuts: Iterable[Cut]) -> list[Cut]:
    """Return one cut for each tensor and axis: indices count before anything is cut."""
    indices: dict[tuple[str, int], set[int]] = {}
    for one in cuts:
        indices.setdefault((one.tensor, one.axis), set()).update(one.indices)
    return [Cut(tensor, axis, tuple(sorted(gone))) for (tensor, axis), gone in indices.items() if gone]


def _cut_shape(shape: Shape, name: str, cuts: Sequence[Cut]) -> Shape:
    sizes = list(shape)
    for one in cuts:
        if one.tensor == name:
            sizes[one.axis] -= len(one.indices)
    return tuple(sizes)


def _module(network: nn.Module, path: str, name: str) -> nn.Module:
    try:
        return network.get_submodule(path)
    except AttributeError as error:
        raise NetworkError(_lacks(network, name)) from error


def _lacks(network: nn.Module, name: str) -> str:
    return (
        f"{type(network).__name__} has no tensor {name!r}, out of which channels were cut; build the network from the "
        "code that it was compressed with"
    )


def _convolution(module: Any) -> dict[str, Any]:
    shape: Shape = tuple(module.weight.shape)
    outputs, inputs = (1, 0) if module.transposed else (0, 1)
    if module.groups == module.in_channels == module.out_channels and module.groups > 1:  # depthwise
        return {"in_channels": shape[0], "out_channels": shape[0], "groups": shape[0]}
    n_out, n_in = shape[outputs], shape[inputs]
    if module.transposed:
        return {"in_channels": n_in, "out_channels": n_out * module.groups}
    return {"in_channels": n_in * module.groups, "out_channels": n_out}


def _linear(module: Any) -> dict[str, Any]:
    return {"in_features": module.weight.shape[1], "out_features": module.weight.shape[0]}


def _norm(module: Any) -> dict[str, Any]:
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    sizes = [tensor.shape[0] for tensor in tensors if tensor.ndim == 1]
    return {"num_features": sizes[0]} if sizes else {}


def _prelu(module: Any) -> dict[str, Any]:
    return {"num_parameters": module.weight.numel()}


def _embedding(module: Any) -> dict[str, Any]:
    return {"num_embeddings": module.weight.shape[0], "embedding_dim": module.weight.shape[1]}


def _recurrent(module: Any) -> dict[str, Any]:
    return {"input_size": module.weight_ih_l0.shape[1], "hidden_size": module.weight_hh_l0.shape[1]}


NORMS: Final = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
SIZES: Final[Mapping[tuple[type[nn.Module], ...], Callable[[Any], dict[str, Any]]]] = {
    CONVOLUTIONS: _convolution,
    (nn.Linear,): _linear,
    NORMS: _norm,
    (nn.PReLU,): _prelu,
    (nn.Embedding,): _embedding,
    (nn.RNNBase,): _recurrent,
}
"""How a module's attributes follow from its tensors."""
