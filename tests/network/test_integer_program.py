"""This file tests the torch program that converters read: its integers are the model's, its answers, too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle.container.integer import IntegerForm, integer_form
from dwindle.exporters.native import to_record
from dwindle.network.activations import INPUT, ActivationQuantizer, CallSite, LevelQuantizer
from dwindle.network.capture import capture
from dwindle.network.compressed import CompressedModel
from dwindle.network.integer_program import (
    QUANTIZED,
    Grid,
    IntegerProgram,
    integer_obstacles,
    integer_program,
)
from dwindle.network.placement import between_quantized
from dwindle.network.simulate import simulate
from dwindle.technique import Context
from dwindle.techniques.cluster import Cluster
from dwindle.techniques.prune_weights import PruneWeights
from dwindle.techniques.quantize_dynamic import QuantizeDynamic
from dwindle.techniques.quantize_static import QuantizeStatic

ROUNDING = 1e-5
"""Weights decoded by one product instead of two: as a fraction of the largest answer."""


class Residual(nn.Module):
    """A residual block with a depthwise convolution, whose head gives floats."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.relu = nn.ReLU()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        before = self.relu(self.stem(x))
        return self.head(self.relu(self.depthwise(before) + before).mean((2, 3)))


class Tied(nn.Module):
    """Two layers with one weight, which is looked up, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        table = nn.functional.embedding(torch.zeros(1, dtype=torch.int64), self.first.weight)
        return torch.relu(self.second(torch.relu(self.first(x)))) * table


IMAGES = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))


def apply(network: nn.Module, example: Tensor, *steps: Any) -> CompressedModel:
    model, context = CompressedModel.dense(network.eval()), Context(example=example[:2], calibration=[example])
    for step in steps:
        model = step.apply(model, context)
    return model


def form_of(model: CompressedModel, name: str) -> IntegerForm | None:
    return integer_form(to_record(model.encodings[name]))


def program_of(model: CompressedModel, example: Tensor, **settings: Any) -> IntegerProgram:
    return integer_program(model, example, lambda name: form_of(model, name), **settings)


def require_same_answers(model: CompressedModel, example: Tensor, program: IntegerProgram) -> None:
    with torch.no_grad():
        ours = simulate(model, example)(example)
        theirs = program.program.module(check_guards=False)(example)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=ROUNDING * float(ours.abs().max()))


def nodes_of(program: IntegerProgram, operation: Any) -> list[Any]:
    return [node for node in program.program.graph.nodes if node.target is operation.default]


STEPS = {
    "int8": (QuantizeStatic(quantize_output=True),),
    "float logits": (QuantizeStatic(),),
    "pruned and clustered": (
        PruneWeights(sparsity=0.5),
        Cluster(codebook_size=8),
        QuantizeStatic(quantize_output=True),
    ),
    "16-bit activations": (QuantizeStatic(activations=16, quantize_output=True),),
    "4-bit weights": (QuantizeStatic(weights=4, quantize_output=True),),
}


@pytest.mark.parametrize("from_floats", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_codes_and_grids_are_those_of_the_model_and_so_are_the_answers(name: str, from_floats: bool) -> None:
    model = apply(Residual(), IMAGES, *STEPS[name])
    program = program_of(model, IMAGES, from_floats=from_floats)
    wanted = {"stem.weight", "depthwise.weight"} | (set() if name == "float logits" else {"head.weight"})
    assert set(program.weights) == wanted
    for weight, form in program.weights.items():
        ours = form_of(model, weight)
        assert ours is not None
        np.testing.assert_array_equal(form.codes, ours.codes)
        np.testing.assert_array_equal(form.scale, ours.scale)
    if not from_floats:
        held = {value.numpy().tobytes() for value in program.program.state_dict.values() if value.dtype == torch.int8}
        assert held >= {form.codes.tobytes() for form in program.weights.values()}
    static = {site: q for site, q in model.activations.items() if isinstance(q, ActivationQuantizer)}
    assert sorted(grid.scale for grid in program.activations) == sorted(
        float(np.float32(quantizer.scale)) for quantizer in static.values()
    )
    assert len(nodes_of(program, QUANTIZED.quantize_per_tensor)) >= len(static)
    require_same_answers(model, IMAGES, program)


def test_codes_quantized_in_the_program_are_the_models() -> None:
    """What LiteRT's converter is given: floats, whose quantization must give our codes again."""
    model = apply(Residual(), IMAGES, QuantizeStatic(quantize_output=True))
    program = program_of(model, IMAGES, from_floats=True)
    for name, form in program.weights.items():
        scale, zero_point = torch.from_numpy(form.scale), torch.zeros(len(form.scale), dtype=torch.int64)
        floats = program.program.state_dict[name].detach()
        arguments = (floats, scale, zero_point, form.axis, -127, 127, torch.int8)
        np.testing.assert_array_equal(QUANTIZED.quantize_per_channel.default(*arguments), form.codes)


@pytest.mark.parametrize("signed", [False, True])
def test_a_grid_keeps_its_values_whatever_its_codes(signed: bool) -> None:
    low = -128 if signed else 0
    quantizer = ActivationQuantizer(scale=0.1, zero_point=low + 7, signed=signed)
    scale, zero_point, lowest, highest, dtype = Grid.of(quantizer).arguments
    assert (lowest, highest, dtype) == (-128, 127, torch.int8)
    assert (lowest - zero_point, scale) == (low - quantizer.zero_point, float(np.float32(0.1)))


def test_a_tied_weight_is_integer_wherever_it_is_multiplied_and_float_where_it_is_looked_up() -> None:
    model = apply(Tied(), ROWS, QuantizeStatic(quantize_output=True))
    assert model.aliases == {"second.weight": "first.weight"}
    for from_floats in (False, True):
        program = program_of(model, ROWS, from_floats=from_floats)
        assert set(program.weights) == {"first.weight"}
        assert len(nodes_of(program, QUANTIZED.dequantize_per_channel)) == 2
        lookups = [node for node in program.program.graph.nodes if "embedding" in str(node.target)]
        assert [node.args[0].op for node in lookups] == ["placeholder"]
        require_same_answers(model, ROWS, program)


def test_weights_that_kernels_do_not_take_stand_as_floats() -> None:
    model = apply(
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)), ROWS, QuantizeStatic(quantize_output=True)
    )
    forms = {name: form_of(model, name) for name in ("0.weight", "2.weight")}
    for name, change in (("0.weight", "lowest"), ("2.weight", "skewed")):
        form = forms[name]
        assert form is not None
        codes, zero_point = form.codes.copy(), form.zero_point.copy()
        if change == "lowest":
            codes.flat[0] = -128
        else:
            zero_point[1] = 1
        odd = replace(form, codes=codes, zero_point=zero_point)
        program = integer_program(model, ROWS, {**forms, name: odd}.get)
        assert set(program.weights) == set(forms) - {name}
        assert program.program.state_dict[name].dtype == torch.float32
        require_same_answers(model, ROWS, program)


def test_between_quantized_asks_for_both_sides_at_every_call() -> None:
    captured = capture(Residual().eval(), IMAGES[:2])
    sites = {CallSite(INPUT, 0), CallSite("relu", 0), CallSite("relu", 1), CallSite("depthwise", 0), CallSite("", 1)}
    assert between_quantized(captured, sites) == {"stem.weight", "depthwise.weight"}
    assert between_quantized(captured, sites | {CallSite("head", 0)}) >= {"stem.weight", "head.weight"}
    assert between_quantized(captured, sites - {CallSite("relu", 0)}) == set()
    assert between_quantized(captured, ()) == set()


def test_rounding_to_levels_stands_in_front_of_its_layer() -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).eval()
    model = replace(CompressedModel.dense(network), activations={CallSite("1", 0): LevelQuantizer(n_bits=2)})
    program = program_of(model, ROWS)
    assert (program.weights, program.activations, program.is_dynamic) == ({}, (), False)
    require_same_answers(model, ROWS, program)
    with torch.no_grad():
        assert not torch.equal(network(ROWS), simulate(model, ROWS)(ROWS))


def test_inputs_ranged_at_run_time_leave_floats_between_layers() -> None:
    model = apply(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)), ROWS, QuantizeDynamic())
    program = program_of(model, ROWS, from_floats=True)
    assert program.is_dynamic
    assert program.activations == ()
    assert set(program.weights) == {"0.weight", "2.weight"}


def test_a_float_model_becomes_a_float_program() -> None:
    program = program_of(CompressedModel.dense(Residual().eval()), IMAGES)
    assert (dict(program.weights), program.activations, program.is_dynamic) == ({}, (), False)
    assert not [node for node in program.program.graph.nodes if "quantized_decomposed" in str(node.target)]


def test_what_pairs_cannot_express_is_told() -> None:
    dense = CompressedModel.dense(nn.Linear(6, 5))
    assert integer_obstacles(dense) == []

    def with_quantizer(**settings: Any) -> CompressedModel:
        return replace(dense, activations={CallSite(INPUT, 0): ActivationQuantizer(scale=0.1, **settings)})

    assert integer_obstacles(with_quantizer(zero_point=3)) == []
    assert integer_obstacles(with_quantizer(zero_point=0, n_bits=16, signed=True)) == []
    assert integer_obstacles(with_quantizer(zero_point=1 << 15, n_bits=16)) == []
    (odd,) = integer_obstacles(with_quantizer(zero_point=0, n_bits=6))
    assert odd == "activations of 6 bits have no integer kernel; use 8 or 16"
    (skewed,) = integer_obstacles(with_quantizer(zero_point=9, n_bits=16))
    assert skewed.startswith("16-bit codes need their zero at 0, <input>:0:0 has it elsewhere")
