"""This file tests the tidying of graphs on graphs written by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from dwindle.errors import ExportError, SettingError
from dwindle.exporters.prepend import prepend
from dwindle.exporters.preprocessing import Preprocessing
from dwindle.exporters.qdq import quantize_activations, quantized_scale
from dwindle.exporters.tidy import drop_unread, drop_zero_biases, fold_constants, pool_globally
from dwindle.network.activations import INPUT, ActivationQuantizer, CallSite


def graph_of(text: str) -> onnx.GraphProto:
    return parser.parse_graph(text)


def ops(graph: onnx.GraphProto) -> list[str]:
    return [node.op_type for node in graph.node]


def test_the_bias_that_the_exporter_invents_disappears():
    graph = graph_of("""g (float[n,1,4,4] x) => (float[n,2,2,2] y) <float[2,1,3,3] w> {
        s = Shape <start: int = 0, end: int = 1> (w)
        z = Constant <value_float: float = 0.0> ()
        zx = CastLike (z, x)
        b = Expand (zx, s)
        y = Conv (x, w, b)
    }""")
    graph.initializer.append(numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "w"))
    fold_constants(graph, keep={"w"})
    drop_zero_biases(graph, keep={"w"})
    drop_unread(graph)
    assert ops(graph) == ["Conv"]
    assert [t.name for t in graph.initializer] == ["w"]


def test_weights_random_numbers_and_large_results_are_not_folded():
    graph = graph_of("""g (float[n] x) => (float[n] y) <float[1] w = {1.0}, int64[1] size = {20000}> {
        a = Neg (w)
        r = RandomNormal <shape: ints = [1]> ()
        e = ConstantOfShape (size)
        y = Sum (x, a, r, e)
    }""")
    fold_constants(graph, keep={"w"})
    assert ops(graph) == ["Neg", "RandomNormal", "ConstantOfShape", "Sum"]


@pytest.mark.parametrize(
    ("axes", "keepdims", "expected"),
    [("-1, -2", 1, "GlobalAveragePool"), ("-1, -2", 0, "ReduceMean"), ("1, 2", 1, "ReduceMean")],
)
def test_a_mean_over_height_and_width_becomes_a_pool(axes, keepdims, expected):
    graph = graph_of(f"""g (float[n,3,4,4] x) => (float[n,3,1,1] y) <int64[2] a = {{{axes}}}> {{
        y = ReduceMean <keepdims: int = {keepdims}> (x, a)
    }}""")
    pool_globally(graph)
    assert ops(graph) == [expected]


def test_pairs_stand_behind_inputs_and_values_and_the_output_keeps_its_name():
    graph = graph_of("g (float[n] x) => (float[n] output) { h = Relu (x)  r = Reshape (h, h)  output = Neg (r) }")
    sites = {CallSite(INPUT, 0): "x", CallSite("a", 0): "h", CallSite("", 0): "output"}
    quantizer = ActivationQuantizer(scale=0.5, zero_point=3)
    quantize_activations(graph, sites, dict.fromkeys(sites, quantizer))
    pair = ["QuantizeLinear", "DequantizeLinear"]
    assert ops(graph) == [*pair, "Relu", *pair, "Reshape", "Neg", *pair]
    producers = {name: node for node in graph.node for name in node.output}
    assert producers["h/float"].input[0] == "x/dequantized"
    assert graph.node[-1].output[0] == "output"
    assert quantized_scale(producers, "r") == "h/scale"
    assert quantized_scale(producers, "output/float") is None


def test_a_narrow_quantizer_clips_first():
    graph = graph_of("g (float[n] x) => (float[n] output) { output = Neg (x) }")
    quantizer = ActivationQuantizer(scale=0.5, zero_point=-1, n_bits=4, signed=True)
    quantize_activations(graph, {CallSite(INPUT, 0): "x"}, {CallSite(INPUT, 0): quantizer})
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    assert ops(graph) == ["Clip", "QuantizeLinear", "DequantizeLinear", "Neg"]
    assert (float(values["x/low"]), float(values["x/high"])) == (-3.5, 4.0)
    assert values["x/zero_point"].dtype == "int8"


def test_two_sites_of_one_value_must_agree():
    sites = {CallSite("a", 0): "h", CallSite("drop", 0): "h"}
    text = "g (float[n] x) => (float[n] output) { h = Relu (x)  output = Neg (h) }"
    same, other = ActivationQuantizer(scale=0.5, zero_point=0), ActivationQuantizer(scale=0.25, zero_point=0)
    graph = graph_of(text)
    quantize_activations(graph, sites, dict.fromkeys(sites, same))
    assert ops(graph).count("QuantizeLinear") == 1
    with pytest.raises(ExportError, match="call site drop:0:0 shares its value"):
        quantize_activations(graph_of(text), sites, dict(zip(sites, (same, other), strict=True)))


def test_a_site_without_a_value_is_named():
    graph = graph_of("g (float[n] x) => (float[n] output) { output = Neg (x) }")
    quantizers = {CallSite("gone", 1): ActivationQuantizer(scale=1.0, zero_point=0)}
    with pytest.raises(ExportError, match="call site gone:1:0 has no value"):
        quantize_activations(graph, {CallSite(INPUT, 0): "x"}, quantizers)


@pytest.mark.parametrize("wrong", [{"std": (0.0,)}, {"mean": ()}, {"scale": float("nan")}])
def test_preprocessing_refuses_nonsense(wrong):
    with pytest.raises(SettingError, match="mean and std"):
        Preprocessing(**wrong)


def test_preprocessing_fits_the_channels():
    graph = graph_of("g (float[n,3,2,2] x) => (float[n,3,2,2] output) { output = Neg (x) }")
    with pytest.raises(ExportError, match="2 values of mean, but the input has 3 channels"):
        prepend(graph, Preprocessing(mean=(0.1, 0.2)))
    flat = graph_of("g (float[n] x) => (float[n] output) { output = Neg (x) }")
    with pytest.raises(ExportError, match="this one has 1 axes"):
        prepend(flat, Preprocessing())
    two = graph_of("g (float[n] x, float[n] z) => (float[n] output) { output = Add (x, z) }")
    with pytest.raises(ExportError, match="one input, this one has 2"):
        prepend(two, Preprocessing())
    tokens = graph_of("g (int64[n,3] x) => (int64[n,3] output) { output = Neg (x) }")
    with pytest.raises(ExportError, match="gives float32, but the network takes int64"):
        prepend(tokens, Preprocessing())
