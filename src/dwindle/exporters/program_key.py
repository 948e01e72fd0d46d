"""This file describes everything about a captured program that decides its ONNX form, weights' values left out.

The captured program, not the network, is what a translation to ONNX reads: the code that ran, structural edits, eval
mode, settings and control flow are all in its nodes. Its weights reach the ONNX graph as named tensors whose numbers
nobody looks at (references replace them), so of them shape, type and sharing count. Every other tensor, a constant of
the code or a buffer outside of the state dict, counts with its bytes.

A program that holds anything else than what is described here (a branch, an operation from outside of torch, an
object) has no description, and is translated anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload  # ruff: ignore[import-private-name] (torch gives it no public name)

from dwindle.network.capture import Captured

PLAIN: Final = (
    bool,
    int,
    float,
    complex,
    str,
    type(None),
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)
NAMESPACES: Final = frozenset({"aten", "prim", "prims"})
"""Whose operations mean the same in a whole process; those of others can be defined anew under the same name."""
FUNCTIONS: Final = frozenset({"_operator", "math", "torch"})
"""Modules of the functions that compute with sizes, such as `operator.mul` and `torch.sym_max`."""
TENSORS: Final = frozenset({Tensor, nn.Parameter, nn.Buffer})


class _Unknown(Exception):  # ruff: ignore[error-suffix-on-exception-name] (never leaves this file)
    """The program holds something that has no description."""


def program_key(captured: Captured, *, weights: Collection[str], aliases: Mapping[str, str]) -> str | None:
    """Return a hash that is equal only for programs of equal ONNX form; None where that cannot be told.

    Args:
        captured: the program, with its call sites.
        weights: names of the tensors whose values the ONNX graph does not hold.
        aliases: further name of a tied weight -> its first name.
    """
    sha = hashlib.sha256()
    try:
        for line in _lines(captured, {*weights, *aliases}):
            sha.update(line.encode() + b"\n")
    except _Unknown:
        return None
    named = f"{sorted(weights)} {sorted(aliases.items())} {torch.get_default_dtype()}"
    return hashlib.sha256(sha.digest() + named.encode()).hexdigest()


def _lines(captured: Captured, weights: Collection[str]) -> Iterator[str]:
    program = captured.program
    yield from map(_node, program.graph.nodes)
    signature = program.graph_signature
    yield f"{signature.input_specs} {signature.output_specs} {program.call_spec}"
    yield str(sorted((str(symbol), str(bounds)) for symbol, bounds in program.range_constraints.items()))
    yield f"{captured.dynamic_batch} {sorted(captured.sites.items())}"
    if program.example_inputs is None:
        raise _Unknown("no example")
    arguments, keywords = program.example_inputs
    for tensor in (*arguments, *keywords.values()):  # a size that may change has its size in the example for a hint
        yield _kind(tensor)
    yield from _tensors(program.state_dict, weights)
    yield from _tensors(program.constants, ())


def _node(node: fx.Node) -> str:
    if node.op not in {"placeholder", "call_function", "output"}:
        raise _Unknown(node.op)  # get_attr: a subgraph of a branch, or a tensor outside of the signature
    parts = [node.op, node.name, _target(node), _value(node.args), _value(node.kwargs), _value(node.meta.get("val"))]
    stack: Mapping[str, Any] = node.meta.get("nn_module_stack") or {}
    return " ".join([*parts, str(list(stack.values())), str(_origins(node))])


def _origins(node: fx.Node) -> list[str]:
    """Return the names of the nodes that `node` came from, nearest first; call sites are found through them."""
    names: list[str] = []
    sources: Sequence[Any] = node.meta.get("from_node") or []
    while sources:
        names.append(str(sources[-1].name))
        sources = sources[-1].from_node
    return names


def _target(node: fx.Node) -> str:
    target = node.target
    if isinstance(target, str):
        return target
    if isinstance(target, OpOverload) and target.namespace in NAMESPACES:
        return str(target)
    module, name = getattr(target, "__module__", None), getattr(target, "__name__", None)
    if isinstance(target, OpOverload) or module not in FUNCTIONS or name is None:
        raise _Unknown(str(target))
    return f"{module}.{name}"


def _value(value: Any) -> str:  # ruff: ignore[too-many-return-statements] (one for each kind of value)
    match value:
        case fx.Node():
            return f"%{value.name}"
        case torch.SymInt() | torch.SymFloat() | torch.SymBool():
            return f"{type(value).__name__}({value.node.expr})"
        case Tensor():
            return _kind(value)
        case Mapping():
            items = cast("Mapping[Any, Any]", value).items()
            return "{" + ",".join(f"{_value(key)}:{_value(item)}" for key, item in items) + "}"
        case tuple() | list():
            items = cast("Sequence[Any]", value)
            return f"{'list' if isinstance(value, list) else 'tuple'}({','.join(map(_value, items))})"
        case slice():
            return f"slice({_value(value.start)},{_value(value.stop)},{_value(value.step)})"
        case _ if type(value) in PLAIN:
            return f"{type(value).__name__} {value!r}"
        case _:
            raise _Unknown(type(value).__name__)


def _kind(value: Any) -> str:
    """Return all about a tensor but its numbers; symbolic sizes by their names."""
    plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
    if not plain or value.is_conj() or value.is_neg():
        raise _Unknown(type(value).__name__)
    return f"{value.dtype} {tuple(value.shape)} {value.stride()} {value.device} {value.requires_grad}"


def _tensors(tensors: Mapping[str, Any], weights: Collection[str]) -> Iterator[str]:
    """Yield a line for each tensor: kind, what it shares its memory with, and its bytes unless it is a weight."""
    first: dict[int, int] = {}
    for i, (name, tensor) in enumerate(tensors.items()):
        if type(tensor) not in TENSORS:
            raise _Unknown(type(tensor).__name__)
        shared = first.setdefault(tensor.untyped_storage().data_ptr(), i) if tensor.numel() else i
        held = "" if name in weights else _digest(tensor)
        yield f"{name} {type(tensor).__name__} {_kind(tensor)} {shared} {tensor.storage_offset()} {held}"


def _digest(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(plain.view(torch.uint8).numpy().tobytes()).hexdigest()
