"""This file turns a captured network into one that can be trained with quantized activations.

A network is captured in eval mode, where the values between its layers have names. To train the graph, what behaves
differently in training gets its training behaviour back: batch norms, dropout, dropout between recurrent layers. What
else a module does only in training mode (noise, auxiliary heads, stochastic depth) is not in the graph.

A batch norm that will be folded stays a batch norm here: the weight before it is rounded as it is, and the factor that
folding gives each channel changes no code. Until `freeze`, it normalizes with the statistics of the batch; after it,
with the running ones, as deployed.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from dwindle.errors import NetworkError
from dwindle.network.activations import CallSite
from dwindle.network.capture import DROPOUTS, Captured
from dwindle.network.insert import add_module, insert_before, insert_behind

RECURRENT: Final = ("aten.lstm.input", "aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input")
TRAIN_FLAG: Final = 6
"""Where recurrent operations take whether they train."""
USUAL_MOMENTUM: Final = 0.1
NOTHING: Final[Mapping[CallSite, nn.Module]] = {}
NORM: Final = "aten.batch_norm.default"
NORM_IN_PARTS: Final = "aten._native_batch_norm_legit_no_training.default"


def training_graph(
    captured: Captured,
    ranges: Mapping[CallSite, nn.Module],
    *,
    folded: Collection[str],
    inputs: Mapping[CallSite, nn.Module] = NOTHING,
) -> fx.GraphModule:
    """Return the graph of `captured` as a network to train, with parameters and buffers of the captured names.

    Args:
        captured: the graph; its own tensors are trained.
        ranges: what rounds the value at a call site; the value is behind the batch norm where one of `folded` follows.
        inputs: what rounds the first input of the layer at a call site, for this layer alone.
        folded: the batch norms (module paths) that will be merged into the layers before them.

    Raises:
        NetworkError: the graph has no value at one of the call sites.
    """
    module, site_of = captured.module()
    graph = fx.GraphModule(module, module.graph)  # `module` itself refuses to be put into training mode
    norms = {f"{path}.running_mean" for path in folded}
    nodes = {site_of[node.name]: node for node in graph.graph.nodes if node.name in site_of}
    if unknown := {*ranges, *inputs} - set(nodes):
        raise NetworkError(f"the graph has no value {min(unknown)}, which is to be quantized")
    behind = {site: _behind_norm(nodes[site], norms) for site in ranges}
    for number, (site, node) in enumerate(behind.items()):
        insert_behind(graph, node, ranges[site], name=f"trained_range_{number}")
    for number, (site, rounding) in enumerate(inputs.items()):
        insert_before(graph, nodes[site], rounding, name=f"trained_input_{number}")
    for node in list(graph.graph.nodes):
        if node.op == "call_function":
            _let_train(graph, node, still=captured.still_norms)
    graph.graph.lint()
    graph.recompile()
    if not captured.dynamic_batch and captured.program.example_inputs is not None:
        graph.register_forward_pre_hook(_OneBatchSize(len(captured.program.example_inputs[0][0])))
    return graph


def freeze(network: nn.Module) -> None:
    """Hold, from now on, the statistics of batch norms and the ranges that move; in place."""
    for module in network.modules():
        frozen = getattr(module, "frozen", None)
        if isinstance(frozen, Tensor):
            frozen.fill_(value=True)


class FreezableNorm(nn.Module):
    """A batch norm over tensors that are held elsewhere; frozen, it normalizes as in eval mode.

    Attributes:
        frozen: bool (), a buffer.
    """

    frozen: Tensor

    def __init__(self, *, momentum: float, eps: float) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("frozen", torch.tensor(False))  # ruff: ignore[boolean-positional-value-in-call]

    def forward(  # ruff: ignore[too-many-positional-arguments] (as the operation that it stands for)
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor
    ) -> Tensor:
        """Return `x` (batch, channels, ...) normalized; the statistics move as usual in training."""
        trains = self.training and not bool(self.frozen)
        return functional.batch_norm(
            x, mean, variance, weight, bias, training=trains, momentum=self.momentum, eps=self.eps
        )


class _OneBatchSize:
    """Refuses batches of any size but the one that a graph was captured for: it would answer for so many examples."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, network: nn.Module, inputs: tuple[Any, ...]) -> None:
        del network
        if len(inputs[0]) != self.n:
            raise NetworkError(
                f"the graph of this network accepts batches of {self.n} only, got {len(inputs[0])}; train with one "
                "batch size, incomplete batches left out, and give Context(example=...) a batch of that size"
            )


class _Dropout(nn.Module):
    def __init__(self, drop: Any, p: float) -> None:
        super().__init__()
        self.drop, self.p = drop, p

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x, self.p, self.training)


class _Recurrent(nn.Module):
    """A recurrent operation that is told whether it trains."""

    def __init__(self, operation: Any) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, *arguments: Any) -> Any:
        return self.operation(*arguments[:TRAIN_FLAG], self.training, *arguments[TRAIN_FLAG + 1 :])


class _MadeLike(nn.Module):
    """An operation that makes a tensor, on the device of another one."""

    def __init__(self, operation: Any, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.operation, self.settings = operation, dict(settings)

    def forward(self, like: Tensor, *arguments: Any) -> Tensor:
        return self.operation(*arguments, **{**self.settings, "device": like.device})


def _let_train(graph: fx.GraphModule, node: fx.Node, *, still: Collection[str]) -> None:
    target = str(node.target)
    if target == NORM and not node.args[5]:
        x, weight, bias, mean, variance, _, momentum, eps = node.args[:8]
        norm = FreezableNorm(momentum=_momentum(mean, momentum, still=still), eps=_number(eps))
        _replace(graph, node, norm, arguments=(x, weight, bias, mean, variance))
    elif target == NORM_IN_PARTS:
        x, weight, bias, mean, variance, momentum, eps = node.args
        norm = FreezableNorm(momentum=_momentum(mean, momentum, still=still), eps=_number(eps))
        parts = list(node.users)
        new = _replace(graph, node, norm, arguments=(x, weight, bias, mean, variance))
        for part in parts:
            part.replace_all_uses_with(new)
            graph.graph.erase_node(part)
    elif target in DROPOUTS:
        _replace(graph, node, _Dropout(DROPOUTS[target], _number(node.args[1])), arguments=(node.args[0],))
    elif target in RECURRENT:
        _replace(graph, node, _Recurrent(node.target), arguments=node.args)
    elif node.kwargs.get("device") is not None:
        first = next(n for n in graph.graph.nodes if n.op == "placeholder")
        settings = {key: value for key, value in node.kwargs.items() if not isinstance(value, fx.Node)}
        if len(settings) == len(node.kwargs):
            _replace(graph, node, _MadeLike(node.target, settings), arguments=(first, *node.args))


def _momentum(mean: Any, shown: Any, *, still: Collection[str]) -> float:
    """Return the momentum of a norm by its running mean; 0 in a graph may also stand for an average over all batches.

    Such a norm (momentum=None) gets the usual momentum, as a graph does not know how many batches there were.
    """
    is_still = isinstance(mean, fx.Node) and str(mean.target).removesuffix(".running_mean") in still
    return 0.0 if is_still else _number(shown) or USUAL_MOMENTUM


def _replace(graph: fx.GraphModule, node: fx.Node, module: nn.Module, *, arguments: tuple[Any, ...]) -> fx.Node:
    name = add_module(graph, f"trained_{node.name}", module)
    with graph.graph.inserting_before(node):
        new = graph.graph.call_module(name, arguments)
    node.replace_all_uses_with(new)
    graph.graph.erase_node(node)
    return new


def _behind_norm(node: fx.Node, norms: Collection[str]) -> fx.Node:
    """Return the batch norm that follows `node` and will be folded into it; `node` where there is none."""
    users = list(node.users)
    if len(users) != 1 or str(users[0].target) not in {NORM, NORM_IN_PARTS}:
        return node
    norm, mean = users[0], users[0].args[3]
    if not isinstance(mean, fx.Node) or str(mean.target) not in norms:
        return node
    if str(norm.target) == NORM:
        return norm
    return next((part for part in norm.users if part.target is operator.getitem and part.args[1] == 0), node)


def _number(value: Any) -> float:
    return float(value)
