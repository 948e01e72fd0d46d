"""This file captures a network as one `torch.export` graph, whose values have names that do not change."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import operator
import re
import sysconfig
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection

from dwindle.errors import NetworkError
from dwindle.network.activations import INPUT, CallSite
from dwindle.network.inputs import Inputs, as_tuple, call, describe, join, n_examples, tensors_in

REMEDY: Final = "; techniques that touch only weights (PruneWeights, Cluster, QuantizeWeights, FineTune) still work"
NOISY: Final = (
    "torch.fx.experimental.symbolic_shapes",
    "torch.fx.experimental.recording",
    "torch._subclasses.fake_tensor",
)
DROPOUTS: Final[Mapping[str, Callable[[Tensor, float, bool], Tensor]]] = {
    "aten.dropout.default": torch.dropout,
    "aten.feature_dropout.default": torch.feature_dropout,
    "aten.alpha_dropout.default": torch.alpha_dropout,
    "aten.feature_alpha_dropout.default": torch.feature_alpha_dropout,
}
"""By the name of an operation of a graph: what is called with (input, probability, whether it trains)."""
END_OF_FACT: Final = re.compile(r" For more information| If you're using")
FOREIGN: Final = (str(Path(torch.__file__).parent), sysconfig.get_path("stdlib"), "<", __file__)
"""Where a line of the user's network cannot be: torch, Python itself, generated code, and this file."""


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """The graph of a network in eval mode.

    Attributes:
        program: the export; functional (no operation writes into another's result), weights named as in the state dict.
        sites: fx node name -> where its value is computed; every node with a tensor value and every input has one.
        weights: input node of `program` -> the parameter or buffer it stands for; a tied one by its first name.
        dynamic_batch: whether the graph accepts any batch size; else only that of the example.
        still_norms: batch norms (module paths) whose statistics do not move in training: their momentum is 0.
        notes: what the caller should know, one sentence each.
        answer: what the network answered to the example when it was captured.
    """

    program: ExportedProgram
    sites: Mapping[str, CallSite]
    weights: Mapping[str, str]
    dynamic_batch: bool = True
    still_norms: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    answer: Any = None

    def module(self) -> tuple[fx.GraphModule, dict[str, CallSite]]:
        """Return the graph as a runnable module, and the sites of its nodes (an input may be renamed on the way)."""
        module = self.program.module(check_guards=False)
        inputs = [node.name for node in module.graph.nodes if node.op == "placeholder"]
        sites = {name: site for name, site in self.sites.items() if site.module != INPUT}
        return module, sites | {name: CallSite(INPUT, position) for position, name in enumerate(inputs)}

    def load_weights(self, network: nn.Module) -> None:
        """Give the graph, in place, the weights that `network` has now; its structure must be as captured."""
        tensors = network.state_dict()
        with torch.no_grad():
            for name, held in self.program.state_dict.items():
                held.copy_(tensors[name])


def capture(network: nn.Module, example: Inputs, *, any_batch: bool = True) -> Captured:
    """Return the graph of `network` (which stays as it is) for inputs like `example`, of any batch size.

    Several inputs share one batch size. `any_batch=False` takes that of the example for a constant, which is several
    times as quick.

    Raises:
        NetworkError: the example is no batch, the network does not run on it, or its code cannot be captured; the line
            is named.
    """
    _require_batch(example)
    twin = _without_inplace_modules(copy.deepcopy(network).eval())
    # torch.export takes a size of 1 for a constant, so a dynamic batch needs an example of two.
    batch = example if n_examples(example) > 1 else join([example, example])
    with _quiet():
        answer = run_on_example(copy.deepcopy(network).eval(), example)
        program, note = _export(twin, batch, example) if any_batch else (_export_as_is(twin, example), "")
        if any(_writes(node) for node in program.graph.nodes):
            program = _without_writes(program)
        _require_same(answer, call(program.module(check_guards=False), example))
    notes = (note,) if note else ()
    weights = _weights(program, network)
    is_dynamic = any_batch and not note
    still = frozenset(path for path, module in network.named_modules() if getattr(module, "momentum", None) == 0)
    return Captured(
        program, _sites(program), weights,
        dynamic_batch=is_dynamic, still_norms=still, notes=notes, answer=answer,
    )  # fmt: skip


def _require_batch(example: Any) -> None:
    """Refuse an example that is no batch: every input needs the batch as its first axis."""
    if isinstance(example, Mapping):
        raise NetworkError(
            f"the example is a mapping of {', '.join(map(str, cast('Mapping[Any, Any]', example)))}; give a tuple of "
            "tensors, the positional arguments of the network's forward"
        )
    tensors = as_tuple(example)
    sizes = {tensor.shape[:1] for tensor in tensors}
    if len(sizes) == 1 and sizes != {()} and min(sizes)[0] > 0:
        return
    remedy = "; an input that is the same for every example belongs into the network as a buffer"
    raise NetworkError(
        f"the example must be a batch (batch, ...) of one or more, of one size for all inputs, got "
        f"{describe(example) or 'no tensor'}{remedy if len(tensors) > 1 else ''}"
    )


def _export(network: nn.Module, batch: Inputs, example: Inputs) -> tuple[ExportedProgram, str]:
    try:
        size: Any = {0: Dim("batch")}
        dynamic: Any = ShapesCollection()  # by tensor: one form for `forward(x, y)` and `forward(*inputs)`
        for tensor in as_tuple(batch):
            dynamic[tensor] = size
        return torch.export.export(network, as_tuple(batch), dynamic_shapes=dynamic, strict=False), ""
    except Exception as error:  # ruff: ignore[blind-except] (any code may raise here; the next try tells)
        reason = first_line(error)
    program = _export_as_is(network, example)
    return program, f"the graph accepts batches of {n_examples(example)} only, because a dynamic batch fails: {reason}"


def _export_as_is(network: nn.Module, example: Inputs) -> ExportedProgram:
    try:
        return torch.export.export(network, as_tuple(example), strict=False)
    except Exception as error:
        raise NetworkError(
            f"torch.export cannot capture {type(network).__name__}: {first_line(error)}{_where(error, network)}; "
            f"rewrite that line without control flow that depends on values{REMEDY}"
        ) from error


def _without_writes(program: ExportedProgram) -> ExportedProgram:
    """Return `program`, which is used up, without operations that change their arguments.

    On the way torch drops dropout, which does nothing in eval mode but is wanted where the graph is trained; so it
    travels as a copy.
    """
    copy_of: Any = torch.ops.aten.clone.default
    dropouts: dict[str, tuple[Any, tuple[Any, ...]]] = {}
    for node in program.graph.nodes:
        if str(node.target) in DROPOUTS:
            dropouts[node.name] = node.target, node.args[1:]
            node.target, node.args = copy_of, node.args[:1]
    program.graph_module.recompile()
    program = program.run_decompositions({})
    for node in program.graph.nodes:
        if node.target is copy_of and (found := dropouts.get(_first_name(node))):
            node.target, node.args = found[0], (node.args[0], *found[1])
    for node in program.graph.nodes:  # what a value was called before means another one here, or none
        node.meta.pop("from_node", None)
    program.graph_module.recompile()
    return program


def _first_name(node: fx.Node) -> str:
    """Return the name that `node` had before the program was rewritten."""
    name, sources = node.name, cast("list[Any]", node.meta.get("from_node") or [])
    while sources:
        name, sources = str(sources[-1].name), sources[-1].from_node
    return name


def run_on_example(network: nn.Module, example: Inputs) -> Any:
    """Return what `network` answers to the example.

    Raises:
        NetworkError: it does not run on it; the line is named.
    """
    try:
        with torch.no_grad():
            return call(network, example)
    except Exception as error:
        raise NetworkError(
            f"{type(network).__name__} does not run on the example, {describe(example)}: "
            f"{first_line(error)}{_where(error, network)}; give an example shaped like one batch of its data"
        ) from error


def _require_same(expected: Any, actual: Any) -> None:
    for want, got in zip(tensors_in(expected), tensors_in(actual), strict=True):
        wanted, answered = want.double(), got.double()
        finite = wanted[wanted.isfinite()].abs()
        bound = 1e-4 * float(finite.amax()) if finite.numel() else 0.0
        if not torch.allclose(wanted, answered, rtol=1e-3, atol=bound, equal_nan=True):
            gap = float((wanted - answered).abs().max())
            raise NetworkError(
                f"the captured graph answers differently from the network (by up to {gap:.3g}); "
                "the network may draw random numbers in eval mode, or change a tensor in place and drop the result"
                + REMEDY
            )


def _sites(program: ExportedProgram) -> dict[str, CallSite]:
    """Number the operations of each module's code in graph order; picking one output of an operation is none itself."""
    counts: Counter[str] = Counter()
    operations: dict[fx.Node, CallSite] = {}
    sites: dict[str, CallSite] = {}
    for position, name in enumerate(program.graph_signature.user_inputs):
        sites[str(name)] = CallSite(INPUT, position)
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        source = node.args[0] if node.args else None
        if node.target is operator.getitem and isinstance(source, fx.Node) and source in operations:
            origin = operations[source]
            sites[node.name] = CallSite(origin.module, origin.call, int(node.args[1]))
        elif tensors_in(node.meta.get("val")):
            module = _innermost_module(node)
            operations[node] = CallSite(module, counts[module])
            counts[module] += 1
            if isinstance(node.meta["val"], Tensor):
                sites[node.name] = operations[node]
    return sites


def _weights(program: ExportedProgram, network: nn.Module) -> dict[str, str]:
    signature = program.graph_signature
    tensors = network.state_dict(keep_vars=True)
    first_names = {id(tensor): name for name, tensor in reversed(tensors.items())}
    exported = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return {node: first_names[id(tensors[name])] if name in tensors else name for node, name in exported.items()}


def _innermost_module(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = str(next(reversed(stack.values()))[0]) if stack else ""
    return path.partition("@")[0]  # the second call of one module is numbered after an at sign in some versions


def _without_inplace_modules(network: nn.Module) -> nn.Module:
    """Let `ReLU(inplace=True)` and its like return a new tensor; `_require_same` tells if that changed an answer."""
    for module in network.modules():
        if getattr(module, "inplace", False) is True:
            setattr(module, "inplace", False)  # ruff: ignore[set-attr-with-constant] (not every module declares it)
    return network


def _writes(node: fx.Node) -> bool:
    """Tell whether `node` is one of the operations, named `add_` and the like, that change their first argument."""
    return node.op == "call_function" and re.search(r"[^_]_\.", str(node.target)) is not None


def _where(error: BaseException, network: nn.Module) -> str:
    """Return where in the user's code `error` arose: " at file:line (source) in module 'path'", as far as known."""
    frames = list(traceback.walk_tb(error.__traceback__))
    entries = [i for i, (frame, _) in enumerate(frames) if frame.f_code.co_filename == __file__]
    inside = frames[entries[-1] + 1 :] if entries else frames
    names = {id(module): name for name, module in network.named_modules()}
    owners = [names.get(id(frame.f_locals.get("self"))) for frame, _ in inside]
    lines = [(f.f_code.co_filename, n) for f, n in inside if not f.f_code.co_filename.startswith(FOREIGN)]
    if not lines:
        quoted = re.findall(r'File "([^"<]+)", line (\d+)', str(error))
        lines = [(file, int(n)) for file, n in quoted if not file.startswith(FOREIGN)]
    place = f" at {lines[-1][0]}:{lines[-1][1]}" if lines else ""
    owner = next((name for name in reversed(owners) if name), None)
    return place + (f" in module {owner!r}" if owner else "")


def first_line(error: BaseException) -> str:
    """Return type and first telling line of an error out of torch or the user's network, for a message of ours."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if "but your code specialized" in line), lines[0] if lines else "")
    return f"{type(error).__name__}: {END_OF_FACT.split(told)[0]}"


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Keep torch's dumps of half-made graphs away from the terminal: what matters of them is in our error."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
