"""This file turns a compressed model into a torch program whose integers stand in it as quantize/dequantize pairs.

The operations are those of torch's own quantization (`quantized_decomposed`), which converters to other engines read.
Scales, zero points and codes are ours. An engine multiplies integers only where what a layer reads and what it gives
are both on a grid; the weights of other layers stand as floats, decoded, because there nothing would be gained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from dwindle.network.activations import ActivationQuantizer, CallSite, DynamicQuantizer, LevelQuantizer, Quantizer
from dwindle.network.capture import Captured, capture
from dwindle.network.compressed import CompressedModel
from dwindle.network.few_bit_grid import RoundedInput
from dwindle.network.inputs import Inputs, as_tuple
from dwindle.network.insert import insert_before
from dwindle.network.placement import between_quantized, matmul_calls, multiplies_by

DTYPES: Final = {8: torch.int8, 16: torch.int16}
"""Codes of activations by their bits: those that engines have kernels for."""
LARGEST: Final = 127
LOWEST: Final = -128
import_module("torch.ao.quantization.fx._decomposed")  # registers the operations
QUANTIZED: Final = torch.ops.quantized_decomposed


class Integers(Protocol):
    """A weight as integers, as `container/integer.py` makes them: value = (code - zero_point) * scale along `axis`."""

    @property
    def codes(self) -> npt.NDArray[np.int8]:
        """The weight's shape."""
        ...

    @property
    def scale(self) -> npt.NDArray[np.float32]:
        """() or (channels,)."""
        ...

    @property
    def zero_point(self) -> npt.NDArray[np.int8]:
        """The shape of `scale`."""
        ...

    @property
    def axis(self) -> int | None:
        """None for one scale."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What an activation is rounded to, as signed integers: value = (code - zero_point) * scale."""

    scale: float
    zero_point: int
    n_bits: int

    @classmethod
    def of(cls, quantizer: ActivationQuantizer) -> Grid:
        """Return the grid of `quantizer`, unsigned codes shifted by half their range."""
        shift = 0 if quantizer.signed else 1 << (quantizer.n_bits - 1)
        scale = float(np.float32(quantizer.scale))
        return cls(scale=scale, zero_point=quantizer.zero_point - shift, n_bits=quantizer.n_bits)

    @property
    def arguments(self) -> tuple[float, int, int, int, torch.dtype]:
        """What quantize_per_tensor takes behind the value."""
        half = 1 << (self.n_bits - 1)
        return self.scale, self.zero_point, -half, half - 1, DTYPES[self.n_bits]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntegerProgram:
    """A model as a torch program.

    Attributes:
        program: takes a batch of the example's size, and no other.
        weights: the integers that stand in it, by the name of the weight.
        activations: the grids that stand in it.
        is_dynamic: whether inputs of layers are to be quantized at run time.
    """

    program: ExportedProgram
    weights: Mapping[str, Integers]
    activations: tuple[Grid, ...]
    is_dynamic: bool


def integer_obstacles(model: CompressedModel) -> list[str]:
    """Return the reasons why quantize/dequantize pairs cannot express `model`; empty if they can."""
    static = {s: q for s, q in model.activations.items() if isinstance(q, ActivationQuantizer)}
    odd = sorted({q.n_bits for q in static.values()} - DTYPES.keys())
    found = [f"activations of {n} bits have no integer kernel; use 8 or 16" for n in odd]
    skewed = sorted(str(s) for s, q in static.items() if q.n_bits == 16 and Grid.of(q).zero_point != 0)
    if skewed:
        found.append(f"16-bit codes need their zero at 0, {skewed[0]} has it elsewhere; QuantizeStatic(activations=16)")
    return found


def integer_program(
    model: CompressedModel,
    example: Inputs,
    integers: Callable[[str], Integers | None],
    *,
    from_floats: bool = False,
) -> IntegerProgram:
    """Return `model` as a program of one batch size, that of `example`.

    Args:
        model: what to express; `integer_obstacles` is empty.
        example: one input batch.
        integers: the integers of a weight by its name; None where it has none.
        from_floats: let integer weights be quantized in the program from their decoded floats, as LiteRT's converter
            reads them (code times scale gives the code again); else codes are constants that are dequantized.

    Raises:
        NetworkError: the network cannot be captured.
    """
    captured = capture(model.network, example)
    graph, sites = captured.module()
    forms = {name: form for name in sorted(_names(model, captured)) if (form := _usable(integers(name))) is not None}
    grids = _quantize_values(graph, sites, model.activations)
    for node in list(graph.graph.nodes):
        name = model.aliases.get(str(node.target), str(node.target))  # of a tied weight torch keeps any name
        if node.op == "get_attr" and name in forms:
            _quantize_weight(graph, node, forms[name], from_floats=from_floats)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    with torch.no_grad():
        program = torch.export.export(graph, as_tuple(example), strict=False)
    is_dynamic = any(isinstance(q, DynamicQuantizer) for q in model.activations.values())
    return IntegerProgram(program=program, weights=forms, activations=grids, is_dynamic=is_dynamic)


def _names(model: CompressedModel, captured: Captured) -> set[str]:
    """Return the weights that layers multiply as integers, where engines have a kernel for them."""
    static = {site for site, q in model.activations.items() if isinstance(q, ActivationQuantizer)}
    dynamic = {site for site, q in model.activations.items() if isinstance(q, DynamicQuantizer)}
    names = between_quantized(captured, static)
    return names | {name for name, calls in matmul_calls(captured).items() if set(calls) <= dynamic}


def _usable(form: Integers | None) -> Integers | None:
    """Return `form` if its zero is 0 and no code is -128: what XNNPACK's and LiteRT's kernels take for a weight."""
    is_symmetric = form is not None and not form.zero_point.any() and int(form.codes.min(initial=0)) > LOWEST
    return form if is_symmetric else None


def _quantize_values(
    graph: fx.GraphModule, sites: Mapping[str, CallSite], quantizers: Mapping[CallSite, Quantizer]
) -> tuple[Grid, ...]:
    """Put pairs behind values on a grid, and rounding before layers that read a few levels; return the grids."""
    grids: list[Grid] = []
    for node in list(graph.graph.nodes):
        site = sites.get(node.name)
        match None if site is None else quantizers.get(site):
            case ActivationQuantizer() as quantizer:
                grids.append(Grid.of(quantizer))
                _pair_behind(graph, node, grids[-1])
            case LevelQuantizer() as quantizer:
                insert_before(graph, node, RoundedInput(quantizer), name=f"quantize_input_of_{node.name}")
            case _:
                pass
    return tuple(grids)


def _pair_behind(graph: fx.GraphModule, node: fx.Node, grid: Grid) -> None:
    """Let every reader of `node` read what is left of it; each through a node of its own, as partitioners expect."""
    readers, anchor = list(node.users), node
    while node.op == "placeholder" and anchor.next.op in {"placeholder", "get_attr"}:
        anchor = anchor.next
    with graph.graph.inserting_after(anchor):
        codes = graph.graph.call_function(QUANTIZED.quantize_per_tensor.default, (node, *grid.arguments))
    for reader in readers:
        with graph.graph.inserting_before(reader):
            value = graph.graph.call_function(QUANTIZED.dequantize_per_tensor.default, (codes, *grid.arguments))
        reader.replace_input_with(node, value)


def _quantize_weight(graph: fx.GraphModule, node: fx.Node, form: Integers, *, from_floats: bool) -> None:
    """Let every layer that multiplies by a weight read its codes, dequantized; a look-up in it keeps the floats."""
    name = str(node.target).replace(".", "_")
    rest: tuple[Any, ...] = (-LARGEST, LARGEST, torch.int8)
    if form.axis is None:
        on_grid: list[Any] = [float(form.scale), 0]
        quantize, dequantize = QUANTIZED.quantize_per_tensor.default, QUANTIZED.dequantize_per_tensor.default
    else:
        scale, zero_point = torch.from_numpy(form.scale.copy()), torch.from_numpy(form.zero_point.astype(np.int64))
        with graph.graph.inserting_after(node):
            on_grid = [_constant(graph, f"{name}_scale", scale), _constant(graph, f"{name}_zero_point", zero_point)]
        on_grid.append(form.axis)
        quantize, dequantize = QUANTIZED.quantize_per_channel.default, QUANTIZED.dequantize_per_channel.default
    for reader in [user for user in node.users if multiplies_by(user, node)]:
        with graph.graph.inserting_before(reader):
            if from_floats:
                codes = graph.graph.call_function(quantize, (node, *on_grid, *rest))
            else:
                codes = _constant(graph, f"{name}_codes", torch.from_numpy(form.codes.copy()))
            value = graph.graph.call_function(dequantize, (codes, *on_grid, *rest))
        reader.replace_input_with(node, value)


def _constant(graph: fx.GraphModule, name: str, tensor: Tensor) -> fx.Node:
    while hasattr(graph, name):
        name += "_"
    graph.register_buffer(name, tensor)
    return graph.graph.get_attr(name)
