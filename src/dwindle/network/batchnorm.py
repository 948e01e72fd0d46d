"""This file merges batch norms into the layers before them, in the encodings, and keeps every structure found there.

In eval mode a batch norm is y = (x - mean) * g + beta with g = gamma / sqrt(var + eps), for each channel. After a layer
x = w * input + b this is the layer w' = w * g along its output axis with bias b' = (b - mean) * g + beta. Plain values
are multiplied; where weights are shared or integer, a float factor for each channel goes outside and no index, code or
zero changes.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, assert_never

import torch
from torch import Tensor, fx, nn

from dwindle.core.encoding import Affine, Codebook, Dense, Encoding, Half, Scaled, Sparse, decode, describe
from dwindle.errors import NetworkError
from dwindle.network.capture import Captured, capture
from dwindle.network.compressed import CompressedModel, FoldedBatchNorm
from dwindle.network.inputs import Inputs
from dwindle.network.select import CONVOLUTIONS

STRAIGHT: Final = ("aten.conv1d.", "aten.conv2d.", "aten.conv3d.", "aten.linear.")
TRANSPOSED: Final = ("aten.conv_transpose1d.", "aten.conv_transpose2d.", "aten.conv_transpose3d.")
NORMS: Final = ("aten.batch_norm.", "aten._native_batch_norm_legit_no_training.")
LAYERS: Final = (*CONVOLUTIONS, nn.Linear)
LAYER_FORWARDS: Final = {layer.forward for layer in LAYERS}


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """Which batch norms can be merged, and why the others cannot (module path -> reason)."""

    edits: tuple[FoldedBatchNorm, ...]
    axes: Mapping[str, int]
    left: Mapping[str, str]


def fold_batchnorms(model: CompressedModel, example: Inputs) -> tuple[CompressedModel, tuple[FoldedBatchNorm, ...]]:
    """Return `model` with every batch norm merged that can be, and what was merged; see `plan_folds` for the others.

    Raises:
        NetworkError: the network cannot be captured, or its activations are quantized already.
    """
    if model.activations:
        raise NetworkError(
            f"batch norms cannot be folded in a model with {len(model.activations)} quantized activations, whose "
            "ranges would no longer fit; fold before QuantizeStatic"
        )
    plan = plan_folds(model, capture(model.network, example))
    for edit in plan.edits:
        model = _fold(model, edit, plan.axes[edit.layer])
    return model, plan.edits


def plan_folds(model: CompressedModel, captured: Captured) -> FoldPlan:
    """Find the batch norms that directly follow a layer whose output nothing else uses.

    A layer or batch norm that is called twice or shares a tensor with another is left, since folding would change both.
    """
    edits: list[FoldedBatchNorm] = []
    axes: dict[str, int] = {}
    left: dict[str, str] = {}
    for node in captured.program.graph.nodes:
        if node.op != "call_function" or not str(node.target).startswith(NORMS):
            continue
        batchnorm = _owner(captured, node.args[3])
        if batchnorm is None:
            continue  # no module holds its statistics
        reason = _why_not(model, captured, node)
        if reason:
            left[batchnorm] = reason
            continue
        layer = str(_owner(captured, node.args[0].args[1]))
        axes[layer] = _output_axis(node.args[0])
        edits.append(FoldedBatchNorm(layer, batchnorm))
    return FoldPlan(tuple(edits), axes, left)


def put_identity(network: nn.Module, *, layer: str, batchnorm: str) -> None:
    """Put an identity where `batchnorm` is, in place; `layer` gets a bias of zeros where it has none.

    Raises:
        NetworkError: the network has no such module.
    """
    before, norm = (_module(network, name) for name in (layer, batchnorm))
    if getattr(before, "bias", None) is None:
        before.register_parameter("bias", _new_bias(before))
    parent, _, name = batchnorm.rpartition(".")
    _module(network, parent).register_module(name, nn.Identity().train(norm.training))


def _fold(model: CompressedModel, edit: FoldedBatchNorm, axis: int) -> CompressedModel:
    batchnorm = model.network.get_submodule(edit.batchnorm)
    gain, shift = _gain_and_shift(model, edit.batchnorm, float(getattr(batchnorm, "eps", 0.0)))
    weight_name, bias_name = f"{edit.layer}.weight", f"{edit.layer}.bias"
    bias = decode(model.encodings[bias_name]).double() if bias_name in model.encodings else torch.zeros_like(gain)
    network = copy.deepcopy(model.network)
    put_identity(network, layer=edit.layer, batchnorm=edit.batchnorm)
    changed: dict[str, Encoding] = {
        weight_name: multiply(model.encodings[weight_name], gain, axis),
        bias_name: Dense((bias * gain + shift).to(network.state_dict()[bias_name].dtype)),
    }
    known = {**model.encodings, **changed}
    encodings = {name: known[name] for name in network.state_dict(keep_vars=True) if name in known}
    return replace(model, network=network, encodings=encodings, edits=(*model.edits, edit)).with_encodings(changed)


def _gain_and_shift(model: CompressedModel, batchnorm: str, eps: float) -> tuple[Tensor, Tensor]:
    """Return g and beta - mean * g of a batch norm, each (channels,) float64."""
    held = {key: model.encodings.get(f"{batchnorm}.{key}") for key in ("running_mean", "running_var", "weight", "bias")}
    values = {key: decode(encoding).double() for key, encoding in held.items() if encoding is not None}
    gain = values.get("weight", torch.tensor(1.0)) / torch.sqrt(values["running_var"] + eps)
    return gain, values.get("bias", torch.tensor(0.0)) - values["running_mean"] * gain


def multiply(encoding: Encoding, factor: Tensor, axis: int) -> Encoding:
    """Return `encoding` times one `factor` (channels,) for each index along `axis`; structure stays.

    >>> folded = multiply(Codebook(torch.tensor([[0], [1]], dtype=torch.uint8), Dense(torch.tensor([0.5, 2.0]))),
    ...                   torch.tensor([-1.0, 3.0]), 0)
    >>> describe(folded), decode(folded).tolist()
    ('Scaled(Codebook(2, Dense))', [[-0.5], [6.0]])
    """
    match encoding:
        case Dense(values):
            spread = factor.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
            return Dense((values.double() * spread).to(values.dtype))
        case Sparse(support, Dense() as inner):
            product = multiply(inner, factor, axis)
            return Sparse(support, product) if isinstance(product, Dense) else encoding
        case Scaled(values, earlier, _):
            return Scaled(values, (earlier.double() * factor).float(), axis)
        case Half() | Affine() | Codebook() | Sparse():
            return Scaled(encoding, factor.float(), axis)
        case _:
            assert_never(encoding)


def _why_not(model: CompressedModel, captured: Captured, norm: fx.Node) -> str:  # ruff: ignore[too-many-return-statements]
    """Return why the batch norm of `norm` cannot be merged; empty if it can."""
    before = norm.args[0]
    if not isinstance(before, fx.Node) or not str(before.target).startswith(STRAIGHT + TRANSPOSED):
        return "it does not follow a convolution or a linear layer"
    if "aten.batch_norm." in str(norm.target) and norm.args[5]:
        return "it normalizes with the statistics of the batch, also in eval mode"
    if len(before.users) > 1:
        return "the output of the layer before it is also used elsewhere"
    layer = _owner(captured, before.args[1])
    if layer is None or type(model.network.get_submodule(layer)).forward not in LAYER_FORWARDS:
        return "the layer before it computes its weight"
    batchnorm = str(_owner(captured, norm.args[3]))
    if type(model.network.get_submodule(batchnorm)).forward is not nn.BatchNorm2d.forward:
        return "its module does more than a batch norm"
    if shared := _shared(model, captured, (layer, batchnorm)):
        return f"{shared!r} is used more than once"
    return _why_not_in_place(model, before, layer)


def _why_not_in_place(model: CompressedModel, before: fx.Node, layer: str) -> str:
    """Return why the weight of `layer` cannot take a factor on its output axis; empty if it can."""
    module, axis = model.network.get_submodule(layer), _output_axis(before)
    if axis == 1 and getattr(module, "groups", 1) > 1:
        return "a transposed convolution in groups spreads its output channels over two axes"
    wanted = 2 if str(before.target).startswith("aten.linear.") else decode(model.encodings[f"{layer}.weight"]).ndim
    if before.meta["val"].ndim != wanted:
        return "it does not normalize the output axis of the layer before it"
    weight, bias = model.encodings[f"{layer}.weight"], model.encodings.get(f"{layer}.bias")
    if isinstance(weight, Scaled) and weight.axis != axis:
        return f"the weight before it has factors along axis {weight.axis} already"
    if bias is not None and not isinstance(bias, Dense | Half):
        return f"the bias before it is encoded as {describe(bias)}"
    return ""


def _shared(model: CompressedModel, captured: Captured, modules: tuple[str, ...]) -> str | None:
    """Return a tensor of `modules` that more than one operation or name uses, if there is one."""
    n_users = Counter({captured.weights.get(node.name): len(node.users) for node in captured.program.graph.nodes})
    tied = {*model.aliases, *model.aliases.values()}
    for module in modules:
        for name in (f"{module}.{key}" for key in model.network.get_submodule(module).state_dict()):
            if n_users[name] > 1 or name in tied:
                return name
    return None


def _owner(captured: Captured, node: object) -> str | None:
    """Return the path of the module that holds the tensor of `node`, if it is a parameter or buffer."""
    name = captured.weights.get(node.name) if isinstance(node, fx.Node) else None
    return None if name is None else name.rpartition(".")[0]


def _output_axis(layer: fx.Node) -> int:
    return 1 if str(layer.target).startswith(TRANSPOSED) else 0


def _module(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        raise NetworkError(
            f"{type(network).__name__} has no module {name!r}, which a recorded batch norm folding names; "
            "build the network from the code that it was compressed with"
        ) from error


def _new_bias(layer: nn.Module) -> nn.Parameter:
    weight = layer.get_parameter("weight")
    n_outputs = int(getattr(layer, "out_channels", 0) or getattr(layer, "out_features", 0))
    return nn.Parameter(weight.new_zeros(n_outputs), requires_grad=weight.requires_grad)
