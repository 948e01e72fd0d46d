"""This file holds the parity matrix: onnxruntime's answer from a file against our model's, and what is in the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from dwindle.artifact import Artifact
from dwindle.bench.deployment import deploy
from dwindle.bench.measurement import PARITY
from dwindle.container.session import session_options
from dwindle.core.affine import quantize
from dwindle.core.codebook import kmeans_1d
from dwindle.core.encoding import Codebook, Dense, Encoding, decode, restrict, rewrite
from dwindle.core.granularity import PerChannel, PerTensor
from dwindle.core.sparsity import magnitude_support
from dwindle.exporters.from_file import export_file
from dwindle.exporters.native import NativeExporter
from dwindle.exporters.onnx import OnnxExporter
from dwindle.exporters.options import OLDEST_IR, ExportOptions
from dwindle.exporters.preprocessing import Preprocessing
from dwindle.network.activations import ActivationQuantizer
from dwindle.network.compressed import CompressedModel
from dwindle.network.inputs import Inputs
from dwindle.network.select import weight_names
from dwindle.network.simulate import simulate
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.technique import Context
from dwindle.techniques.cast_half import CastHalf
from dwindle.techniques.fold_batchnorm import FoldBatchNorm
from dwindle.techniques.quantize_dynamic import QuantizeDynamic
from dwindle.techniques.quantize_static import QuantizeStatic
from dwindle.zoo.resnet18_tian import resnet18_tian

FLOAT_BOUND = 1e-5
"""Largest difference, relative to the largest output, of two float engines that add in another order."""
STATIC_BOUND = 0.01
"""The same where activations are 8-bit codes: a value within float rounding of the middle between two codes may fall on
either side, and one code of difference in a layer reaches the output. In networks of twenty such layers these
differences grow to the size of the quantization error itself, so the bound is one for shallow networks."""
STATIC_MEAN_BOUND = 0.001


class Residual(nn.Module):
    """Conv-bn-relu, a residual block, pooling, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn1 = nn.Conv2d(2, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv, self.bn2 = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.relu, self.pool, self.head = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.stem(x)))
        x = self.relu(x + self.bn2(self.conv(x)))
        return self.head(self.pool(x).flatten(1))


class Depthwise(nn.Module):
    """A depthwise and a pointwise convolution with relu6."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = nn.Conv2d(2, 16, 3, groups=2, stride=2)
        self.point, self.act = nn.Conv2d(16, 16, 1), nn.ReLU6()
        self.head = nn.Linear(16 * 9, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.point(self.act(self.depth(x)))).flatten(1))


class Concat(nn.Module):
    """Two branches, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 16, 3, padding=1), nn.Conv2d(2, 16, 1)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(32 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], 1)
        return self.head(self.pool(x).flatten(1))


class Tokens(nn.Module):
    """A multi-layer perceptron over a sequence, whose linear layers become MatMul."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.drop, self.down = nn.Linear(64, 32), nn.Dropout(), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.drop(torch.relu(self.up(x.flatten(2))))).mean(1)


class TwoInTwoOut(nn.Module):
    """An image and a vector to class scores and one number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.vector = nn.Conv2d(2, 8, 3), nn.Linear(4, 8)
        self.scores, self.number = nn.Linear(16, 5), nn.Linear(16, 1)

    def forward(self, image: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat([torch.relu(self.conv(image)).mean((2, 3)), torch.relu(self.vector(vector))], 1)
        return self.scores(joined), self.number(joined)


class Recurrent(nn.Module):
    """An LSTM and a GRU over a window, the last step to class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(6, 8, batch_first=True), nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.lstm(x)[0])[0][:, -1])


class Normalized(nn.Module):
    """A layer norm and a softmax, which float16 treats badly if they are done badly."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.down(self.norm(self.up(x))), -1)


Change = Callable[[CompressedModel, Context], CompressedModel]


def on_weights(change: Callable[[Encoding], Encoding]) -> Change:
    def apply(model: CompressedModel, context: Context) -> CompressedModel:
        names = weight_names(model.network)
        return model.with_encodings({name: change(model.encodings[name]) for name in names})

    return apply


def pruned(encoding: Encoding) -> Encoding:
    return restrict(encoding, magnitude_support(decode(encoding), 0.6))


def clustered(encoding: Encoding, codebook_size: int = 15) -> Encoding:
    def fit(values: Tensor, support: Tensor, *, is_codebook: bool) -> Codebook:
        found = kmeans_1d(values[support], min(codebook_size, int(support.sum())))
        indices = torch.zeros(values.shape, dtype=torch.uint8)
        indices[support] = found.indices
        return Codebook(indices, Dense(found.centroids))

    return rewrite(encoding, fit)


def integer(encoding: Encoding, n_bits: int = 8) -> Encoding:
    def fit(values: Tensor, support: Tensor, *, is_codebook: bool) -> Encoding:
        granularity = PerTensor() if is_codebook else PerChannel(0)
        return quantize(values, n_bits=n_bits, granularity=granularity, support=support)

    return rewrite(encoding, fit)


def then(*changes: Change) -> Change:
    def apply(model: CompressedModel, context: Context) -> CompressedModel:
        for change in changes:
            model = change(model, context)
        return model

    return apply


def static(model: CompressedModel, context: Context) -> CompressedModel:
    return QuantizeStatic().apply(model, context)


def wide(model: CompressedModel, context: Context) -> CompressedModel:
    return QuantizeStatic(activations=16).apply(model, context)


def fixed_point(model: CompressedModel, context: Context) -> CompressedModel:
    return QuantizeStatic(weights=16, activations=16, scale="power_of_two").apply(model, context)


def dynamic(model: CompressedModel, context: Context) -> CompressedModel:
    return QuantizeDynamic().apply(model, context)


def folded(model: CompressedModel, context: Context) -> CompressedModel:
    return FoldBatchNorm().apply(model, context)


STRUCTURES: dict[str, Change] = {
    "dense": lambda model, context: model,
    "pruned": on_weights(pruned),
    "clustered": on_weights(lambda e: clustered(e, 16)),
    "pruned+clustered": on_weights(lambda e: clustered(pruned(e))),
    "pruned+clustered+folded": then(on_weights(lambda e: clustered(pruned(e))), folded),
    "int8": on_weights(integer),
    "int4": on_weights(lambda e: integer(e, 4)),
    "half": lambda model, context: CastHalf().apply(model, context),
    "pruned+clustered+half": lambda model, context: CastHalf().apply(
        on_weights(lambda e: clustered(pruned(e)))(model, context), context
    ),
    "static": static,
    "pruned+clustered+static": then(on_weights(lambda e: clustered(pruned(e))), static),
    "wide": wide,
    "pruned+clustered+wide": then(on_weights(lambda e: clustered(pruned(e))), wide),
    "fixed point": fixed_point,
    "dynamic": dynamic,
    "pruned+clustered+dynamic": then(on_weights(lambda e: clustered(pruned(e))), dynamic),
}
NETWORKS = {"residual": Residual, "depthwise": Depthwise, "concat": Concat, "tokens": Tokens}
OTHERS = {"two in, two out": TwoInTwoOut, "recurrent": Recurrent, "normalized": Normalized}
RAW = Preprocessing(scale=1 / 128, mean=(0.9, 1.1), std=(0.5, 0.4), is_uint8=True, channels_last=True)
OPTIONS = [
    ("residual", "pruned+clustered+static", ExportOptions(opset=15)),
    ("residual", "int4", ExportOptions(opset=17)),
    ("residual", "pruned+clustered", ExportOptions(opset=20, ir_version=9)),
    ("residual", "dense", ExportOptions(float_type="float16")),
    ("residual", "pruned+clustered+half", ExportOptions(float_type="float16", opset=18, batch_size=4)),
    ("residual", "static", ExportOptions(batch_size=3, preprocessing=RAW, class_names=tuple("abcde"))),
    ("two in, two out", "pruned+clustered", ExportOptions()),
    ("two in, two out", "int8", ExportOptions(opset=17, batch_size=2, float_type="float16")),
    ("recurrent", "int8", ExportOptions()),
    ("recurrent", "half", ExportOptions()),
    ("recurrent", "dynamic", ExportOptions(opset=18, batch_size=4)),
    ("normalized", "dense", ExportOptions(opset=17, float_type="float16")),
]
MATRIX = [("residual", structure) for structure in STRUCTURES if "dynamic" not in structure] + [
    (network, structure)
    for network in ("depthwise", "concat", "tokens")
    for structure in ("pruned+clustered", "pruned+clustered+static")
]
MATRIX += [("depthwise", "wide"), ("concat", "wide"), ("tokens", "dynamic"), ("tokens", "pruned+clustered+dynamic")]


def network_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = (NETWORKS | OTHERS)[name]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, -1.0, 1.0)  # folding a negative weight flips the signs of a channel
    return network.eval()


def answer(artifact: Artifact, x: Tensor) -> np.ndarray:
    with OnnxRuntime().load(artifact) as session:
        (output,) = session.run(x.numpy())
    return output


@pytest.mark.parametrize(("network", "structure"), MATRIX)
def test_the_file_answers_like_the_model_and_holds_what_it_should(network, structure, tmp_path):
    x = torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    context = Context(example=x, calibration=[x])
    dense = CompressedModel.dense(network_of(network))
    model = STRUCTURES[structure](dense, context)
    with torch.no_grad():
        expected = simulate(model, x)(x).numpy()
    artifact = OnnxExporter().export(model, x[:1], tmp_path / "model.onnx")
    difference = np.abs(answer(artifact, x) - expected) / np.abs(expected).max()
    assert difference.max() <= (STATIC_BOUND if model.activations else FLOAT_BOUND)
    assert difference.mean() <= (STATIC_MEAN_BOUND if model.activations else FLOAT_BOUND)
    require_content(onnx.load(artifact.path).graph, model, structure)


def example_for(name: str) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(6, 2, 8, 8, generator=generator)
    match name:
        case "two in, two out":
            return image, torch.randn(6, 4, generator=generator)
        case "recurrent" | "normalized":
            return torch.randn(6, 7, 6, generator=generator)
        case _:
            return image


@pytest.mark.parametrize(("network", "structure", "options"), OPTIONS, ids=lambda value: str(value)[:60])
def test_both_files_answer_like_the_model_whatever_the_options(network, structure, options, tmp_path):
    x = example_for(network)
    model = STRUCTURES[structure](CompressedModel.dense(network_of(network)), Context(example=x, calibration=[x]))
    result = deploy(model, x, tmp_path, options=options)
    parity = [m for m in result.parity if m.metric == PARITY]
    assert [m.conditions["within_bound"] for m in parity] == ["yes", "yes"]
    assert len({m.value for m in parity}) == 1 or options.float_type == "float16"
    proto = onnx.load(result.artifacts["onnx"].path)
    assert (proto.opset_import[0].version, proto.ir_version) == (options.opset, OLDEST_IR[options.opset])
    kinds = {t.data_type for t in proto.graph.initializer}
    assert not kinds & {onnx.TensorProto.INT4, onnx.TensorProto.UINT4} or options.opset == 21
    if options.float_type == "float16":
        floats = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
        assert sum(len(t.raw_data) for t in floats) < sum(len(t.raw_data) for t in proto.graph.initializer) / 2
    for value in (*proto.graph.input, *proto.graph.output):
        batch = value.type.tensor_type.shape.dim[0]
        assert (batch.dim_value, batch.dim_param) == ((options.batch_size or 0), "" if options.batch_size else "batch")
        is_raw = options.preprocessing is not None and value.name == proto.graph.input[0].name
        assert value.type.tensor_type.elem_type == (onnx.TensorProto.UINT8 if is_raw else onnx.TensorProto.FLOAT)
    (again,) = export_file(result.artifacts["dwn"].path, "onnx", tmp_path / "again.onnx")
    assert again.sha256 == result.artifacts["onnx"].sha256


def require_content(graph: onnx.GraphProto, model: CompressedModel, structure: str) -> None:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = Counter(node.op_type for node in graph.node)
    names = weight_names(model.network)
    integer_types = {onnx.TensorProto.INT8, onnx.TensorProto.INT4, onnx.TensorProto.INT16}
    for name in names:
        if "clustered" in structure:
            assert tensors[f"{name}/indices"].data_type == onnx.TensorProto.UINT4
            assert len(tensors[f"{name}/indices"].raw_data) == (decode(model.encodings[name]).numel() + 1) // 2
            is_integer = "static" in structure or "dynamic" in structure
            expected = onnx.TensorProto.INT8 if is_integer else onnx.TensorProto.FLOAT
            assert tensors[f"{name}/table"].data_type == expected
        elif structure == "half":
            assert tensors[f"{name}/half"].data_type == onnx.TensorProto.FLOAT16
        elif structure in {"int8", "int4", "static", "wide", "fixed point", "dynamic"}:
            codes = tensors.get(f"{name}/codes", tensors.get(f"{name}/codes/int4"))
            assert codes.data_type in integer_types
        else:
            assert tensors[name].data_type == onnx.TensorProto.FLOAT
        assert (name in tensors) == (structure in {"dense", "pruned"})  # no second copy as floats
    n_pairs = sum(isinstance(quantizer, ActivationQuantizer) for quantizer in model.activations.values())
    assert nodes["DynamicQuantizeLinear"] == nodes["MatMulInteger"] == len(model.activations) - n_pairs
    assert nodes["QuantizeLinear"] <= n_pairs
    assert (nodes["QuantizeLinear"] > 0) == (nodes["DequantizeLinear"] > 0) == (n_pairs > 0)
    if structure.endswith("static"):
        biases = [t for t in graph.initializer if t.name.endswith("/bias/codes")]
        assert {t.data_type for t in biases} <= {onnx.TensorProto.INT32}


def test_the_engine_fuses_integer_layers(tmp_path):
    x = torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    model = STRUCTURES["pruned+clustered+static"](
        CompressedModel.dense(network_of("residual")), Context(example=x, calibration=[x])
    )
    options = session_options(1)
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    artifact = OnnxExporter().export(model, x, tmp_path / "model.onnx")
    onnxruntime.InferenceSession(str(artifact.path), options, providers=["CPUExecutionProvider"])
    nodes = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert nodes["QLinearConv"] == 2
    assert nodes["QLinearAdd"] == 1
    assert nodes["QGemm"] == 1
    assert not {"Conv", "Gemm", "Gather"} & nodes.keys()


class Shared(nn.Module):
    """Two linear layers with one weight, and a convolution that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(2, 16)
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(torch.relu(self.conv(x)))).mean((2, 3))
        return self.second(torch.relu(self.first(torch.relu(self.up(x)))))


@pytest.mark.parametrize("structure", ["static", "pruned+clustered+static", "dynamic"])
def test_a_weight_that_two_layers_read_runs(structure, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(6, 2, 8, 8)
    model = STRUCTURES[structure](CompressedModel.dense(Shared().eval()), Context(example=x, calibration=[x]))
    result = deploy(model, x, tmp_path)
    assert [m.conditions["within_bound"] for m in result.parity if m.metric == PARITY] == ["yes", "yes"]
    tensors = {tensor.name: tensor for tensor in onnx.load(result.artifacts["onnx"].path).graph.initializer}
    assert "first.weight" not in tensors  # it is stored as codes or indices


def test_a_layer_of_nothing_but_zeros_answers_its_bias(tmp_path):
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        network[0].bias.fill_(-9.0)  # dead units: their range is zero as well
        network[2].weight.zero_()
        network[2].bias.copy_(torch.tensor([0.3, -0.2, 0.1]))
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    model = static(CompressedModel.dense(network.eval()), Context(example=x, calibration=[x]))
    result = deploy(model, x, tmp_path)
    assert [m.conditions["within_bound"] for m in result.parity if m.metric == PARITY] == ["yes", "yes"]


def test_both_formats_answer_with_the_same_bits(tmp_path):
    x = torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    model = STRUCTURES["pruned+clustered+static"](
        CompressedModel.dense(network_of("residual")), Context(example=x, calibration=[x])
    )
    from_onnx = answer(OnnxExporter().export(model, x, tmp_path / "model.onnx"), x)
    from_dwn = answer(NativeExporter().export(model, x, tmp_path / "model.dwn"), x)
    np.testing.assert_array_equal(from_dwn, from_onnx)


@pytest.mark.slow
def test_the_paper_network_keeps_its_answer(tmp_path):
    x = torch.randn(4, 1, 33, 33, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    dense = CompressedModel.dense(resnet18_tian(in_channels=1))
    model = STRUCTURES["pruned+clustered"](dense, Context(example=x))
    artifact = OnnxExporter().export(model, x, tmp_path / "model.onnx")
    with torch.no_grad():
        expected = model.network.eval()(x).numpy()
    assert np.abs(answer(artifact, x) - expected).max() <= FLOAT_BOUND * np.abs(expected).max()
    assert artifact.size_bytes < dense.n_dense_weights * 4 / 7.5  # four of 32 bits, biases and batch norms as floats
