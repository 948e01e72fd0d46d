"""This file tests that words on why a file is or is not faster follow from figures, of made-up and of real files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import dwindle as dw
from dwindle.bench.layer_facts import FileFacts, LayerFacts
from dwindle.bench.probes.operator_times import profile_of
from dwindle.bench.profiled import profile_artifact
from dwindle.exporters.graph_cache import GraphCache
from dwindle.report.slow_reasons import Pair, headline, pair_of, reasons
from dwindle.runtimes.call_times import CallTimes, Kernel
from dwindle.runtimes.onnxruntime import OnnxRuntime

CONV, GEMM = ("Conv", "float32", 4.0), ("Gemm", "float32", 1.0)
CONV8, GEMM8 = ("QLinearConv", "int8", 1.0), ("QGemm", "int8", 0.5)


def profile(*kernels, engine=0.0, unprofiled=None, runtime="onnxruntime 1.0"):
    """A profile of two equal calls with operations (kind, numbers, ms)."""
    ms = np.array([[ms for _, _, ms in kernels]] * 2)
    wall = ms.sum(axis=1) + engine
    times = CallTimes(
        kernels=tuple(Kernel(name=f"{kind} {i}", kind=kind, numbers=n) for i, (kind, n, _) in enumerate(kernels)),
        ms=ms,
        engine_ms=np.full(2, engine),
        wall_ms=wall,
    )
    return profile_of(
        times, runtime, artifact="a" * 64, unprofiled_ms=float(wall[0]) if unprofiled is None else unprofiled
    )


def layer(kind="Conv", *, zeros=0.0, weights="float32", inputs="float32", outputs="float32", n=1_000):
    return LayerFacts(
        name="w", kind=kind, n_weights=n, n_zeros=int(zeros * n), weights=weights, inputs=inputs, outputs=outputs
    )


def facts(*layers, n_quantizers=0):
    return FileFacts(layers=layers, n_quantizers=n_quantizers)


DENSE = facts(layer(), layer("Gemm"))
INT8 = facts(
    layer(weights="int8", inputs="uint8", outputs="uint8"),
    layer("Gemm", weights="int8", inputs="uint8"),
    n_quantizers=2,
)


def test_the_time_of_products_is_told_once():
    zeros = facts(layer(zeros=0.9), layer("Gemm", weights="int8", inputs="uint8"))
    found = reasons(Pair(before=profile(CONV, GEMM), after=profile(CONV, GEMM8), facts_before=DENSE, facts_after=zeros))
    assert {"zeros", "floats"} <= {one.kind for one in found}
    assert " ".join(one.words for one in found).count("what multiplies takes") == 1


def said(pair):
    return {reason.kind: reason.words for reason in reasons(pair)}


def test_zeros_that_run_as_dense():
    pair = Pair(
        before=profile(CONV, GEMM),
        after=profile(CONV, GEMM),
        facts_before=DENSE,
        facts_after=facts(layer(zeros=0.9), layer("Gemm", zeros=0.9)),
    )
    assert set(said(pair)) == {"zeros"}
    assert said(pair)["zeros"] == (
        "90 % of the weights are zero, but onnxruntime multiplies them like any other number (Conv, Gemm): what "
        "multiplies takes 5.00 ms of a call, and took 5.00 ms before (about the same). Zeros make a file smaller; only "
        "whole channels that are cut out, or kernels made for sparse weights, make it faster."
    )
    faster = replace(pair, after=profile(CONV8, GEMM8))
    assert "for another reason" in said(faster)["zeros"]


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [(0.0, 0.04, "Conv"), (0.9, 0.9, "Conv"), (0.0, 0.9, "SparseConv")],
    ids=["few zeros", "as many before", "a sparse kernel"],
)
def test_zeros_that_explain_nothing(before, after, kind):
    pair = Pair(
        before=profile(CONV),
        after=profile((kind, "float32", 4.0)),
        facts_before=facts(layer(zeros=before)),
        facts_after=facts(layer(zeros=after)),
    )
    assert "zeros" not in said(pair)


def test_few_zeros_explain_nothing_where_the_file_before_cannot_be_opened():
    pair = Pair(before=profile(CONV), after=profile(CONV), facts_after=facts(layer(zeros=0.04)))
    assert "zeros" not in said(pair)
    assert "zeros" in said(replace(pair, facts_after=facts(layer(zeros=0.5))))


def test_fewer_weights():
    pair = Pair(
        before=profile(CONV), after=profile(("Conv", "float32", 2.0)), facts_before=facts(layer()),
        facts_after=facts(layer(n=500)),
    )  # fmt: skip
    assert "50 % of the weights are left to multiply: what multiplies takes 2.00 ms" in said(pair)["fewer weights"]
    assert "2.0 times as fast" in said(pair)["fewer weights"]


def test_all_integers_on_a_processor_without_the_instruction():
    pair = Pair(
        before=profile(CONV, GEMM), after=profile(CONV8, GEMM8), facts_before=DENSE, facts_after=INT8,
        cpu_features=("avx2",),
    )  # fmt: skip
    words = said(pair)
    assert set(words) == {"integers", "quantizers", "processor"}
    assert "All 2 operations that multiply (1 convolution and 1 matrix multiplication)" in words["integers"]
    assert "3.3 times as fast" in words["integers"]
    assert "runs none of the 2 quantizers of the file as an operation" in words["quantizers"]
    assert "processor" not in said(replace(pair, cpu_features=("avx2", "avx_vnni")))
    assert "processor" not in said(replace(pair, cpu_features=()))


def test_layers_that_stay_floats_and_why():
    mixed = facts(
        layer(weights="int8", inputs="uint8", outputs="uint8"),
        layer(weights="int8", inputs="uint8", outputs="uint8"),
        layer(weights="float32", inputs="int16", outputs="int16"),
        layer(weights="int8", inputs="float32"),
        layer(weights="float32", inputs="uint8"),
    )
    pair = Pair(before=profile(*[CONV] * 5), after=profile(CONV8, *[CONV] * 4), facts_before=DENSE, facts_after=mixed)
    words = said(pair)["floats"]
    assert words.startswith("1 of the 5 operations that multiply (5 convolution) runs on 8-bit integers")
    assert "1 layer reads 16-bit activations" in words
    assert "1 layer reads values that nothing quantizes" in words
    assert "1 layer reads float weights" in words
    assert "1 could by what the file says, but the engine has no integer kernel" in words


def test_none_on_integers():
    wide = facts(layer(inputs="uint16"), layer("Gemm", inputs="uint16"))
    pair = Pair(before=profile(CONV, GEMM), after=profile(CONV, GEMM), facts_before=DENSE, facts_after=wide)
    assert said(pair)["floats"].startswith(
        "None of the 1 convolution and 1 matrix multiplication operations runs on 8-bit integers (2 layers read 16-bit"
    )
    one = replace(pair, after=profile(CONV))
    assert said(one)["floats"].startswith("The convolution operation does not run on 8-bit integers")


def test_weights_that_are_only_stored_in_fewer_bits():
    pair = Pair(
        before=profile(CONV), after=profile(CONV), facts_before=DENSE, facts_after=DENSE, bytes_before=4_000,
        bytes_after=1_000,
    )  # fmt: skip
    assert "4.0 times smaller, but its weights are turned back into floats" in said(pair)["stored"]
    assert "stored" not in said(replace(pair, bytes_after=3_900))
    assert "stored" not in said(replace(pair, bytes_before=0))


def test_the_cost_of_quantizers():
    after = profile(CONV8, ("QuantizeLinear", "int8", 0.3), ("DequantizeLinear", "int8", 0.2))
    pair = Pair(before=profile(CONV), after=after, facts_before=DENSE, facts_after=INT8)
    assert "take 33 % [33, 33] of the time of a call (2 operations of their own, 2 runs)" in said(pair)["quantizers"]
    merged = replace(pair, facts_after=replace(INT8, n_quantizers=9))
    assert "the file has 9 quantizers, the others are part of other operations" in said(merged)["quantizers"]


def test_islands_of_floats():
    quantizers = [("QuantizeLinear", "int8", 0.1), ("DequantizeLinear", "int8", 0.1)] * 2
    after = profile(CONV8, *quantizers, ("Softmax", "float32", 0.2))
    words = said(Pair(before=profile(CONV), after=after))["islands"]
    assert words.startswith("Between integer operations 1 computes in floats (Softmax; 12 % of the time)")


def test_a_network_too_small_for_its_engine():
    after = profile(("Conv", "float32", 0.01), ("Gemm", "float32", 0.01), engine=0.5, unprofiled=0.04)
    words = said(Pair(before=profile(CONV), after=after))["engine"]
    assert words.startswith("50 % of a call passes outside the 2 operations, each of which takes 0.0100 ms.")
    busy = profile(("Conv", "float32", 0.01), ("Gemm", "float32", 0.01), engine=0.5, unprofiled=0.019)
    assert "engine" not in said(Pair(before=profile(CONV), after=busy))  # the profile alone took that time


def test_what_compression_cannot_touch():
    before = profile(CONV, ("MaxPool", "float32", 3.0), ("Reshape", "", 1.0))
    words = said(Pair(before=before, after=before))["rest"]
    assert "50 % of the time in operations did not go into multiplying with weights" in words
    assert "(pooling 38 %, data movement 12 %)" in words
    assert "at most 2.0 times as fast" in words


def test_nothing_known_nothing_said():
    pair = Pair(before=profile(CONV, runtime="openvino 1"), after=profile(CONV, runtime="openvino 1"))
    assert reasons(pair) == ()
    assert headline(pair) == "A call took about 4.00 ms before and 4.00 ms after (about the same)."


def test_a_profile_without_operations_breaks_nothing():
    empty = profile(engine=1.0)
    assert headline(Pair(before=empty, after=empty))
    assert said(Pair(before=empty, after=empty, facts_before=facts(), facts_after=facts())) == {}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Real files of small networks, profiled."""
    torch.manual_seed(0)
    folder, graphs, images, rows = (
        tmp_path_factory.mktemp("real"),
        GraphCache(),
        torch.randn(8, 3, 8, 8),
        torch.randn(8, 6),
    )
    small = dw.CompressedModel.dense(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)).eval()
    )
    mlp = dw.CompressedModel.dense(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval())
    steps = {
        "fp32": (small, (), images),
        "pruned": (small, (dw.PruneWeights(sparsity=0.9),), images),
        "int8": (small, (dw.QuantizeStatic(),), images),
        "int16": (small, (dw.QuantizeStatic(activations=16),), images),
        "clustered": (small, (dw.Cluster(codebook_size=16),), images),
        "mlp": (mlp, (), rows),
        "mlp8": (mlp, (dw.QuantizeDynamic(),), rows),
    }
    found = {}
    for name, (model, recipe, example) in steps.items():
        context = dw.Context(example=example[:1], calibration=[example])
        ready = dw.Recipe(recipe).run(model, context) if recipe else model
        artifact = dw.deploy(ready, example[:1], folder, formats=("onnx",), name=name, graphs=graphs).artifacts["onnx"]
        found[name] = profile_artifact(artifact, (example[:1].numpy(),), OnnxRuntime(), n_runs=4)
    return found


@pytest.mark.parametrize(
    ("before", "after", "kind", "words"),
    [
        ("fp32", "pruned", "zeros", "90 % of the weights are zero, but onnxruntime multiplies them"),
        ("fp32", "int8", "integers", "All 2 operations that multiply"),
        ("fp32", "int8", "quantizers", "Quantizing and dequantizing take"),
        ("fp32", "int16", "floats", "2 layers read 16-bit activations"),
        ("fp32", "int16", "quantizers", "Quantizing and dequantizing take"),
        ("fp32", "clustered", "stored", "turned back into floats when it is loaded"),
        ("mlp", "mlp8", "integers", "All 2 operations that multiply (2 matrix multiplication)"),
    ],
)
def test_real_files(real, before, after, kind, words):
    assert words in said(pair_of(real[before], real[after]))[kind]


def test_a_file_beside_itself_needs_no_explanation(real):
    kinds = set(said(pair_of(real["fp32"], real["fp32"])))
    assert kinds <= {"engine", "rest"}
