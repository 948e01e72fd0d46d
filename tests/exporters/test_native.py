from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dwindle.container import Contents, parse, read, serialize
from dwindle.container.records import decode_record, describe_record
from dwindle.core.encoding import Affine, Codebook, Dense, Scaled, Sparse, decode, describe
from dwindle.core.granularity import PerChannel, PerGroup, PerTensor, n_scales
from dwindle.errors import ExportError
from dwindle.exporters.native import NativeExporter, from_record, to_contents, to_record
from dwindle.exporters.onnx import OnnxExporter
from dwindle.network.activations import ActivationQuantizer, CallSite
from dwindle.network.compressed import CompressedModel, FoldedBatchNorm, Record

SHAPE = (4, 3, 2)


def affine(shape, granularity, n_bits, generator, *, signed=True):
    low = -(1 << (n_bits - 1)) if signed else 0
    n = n_scales(shape, granularity)
    return Affine(
        torch.randint(low, low + (1 << n_bits), shape, generator=generator, dtype=torch.int32),
        torch.rand(n, generator=generator) + 0.01,
        torch.randint(low, low + (1 << n_bits), (n,), generator=generator, dtype=torch.int32),
        granularity,
        n_bits,
        signed,
    )


@st.composite
def encodings(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    granularity = draw(st.sampled_from([PerTensor(), PerChannel(0), PerChannel(2), PerGroup(4)]))
    n_bits, signed = draw(st.integers(2, 16)), draw(st.booleans())
    size = draw(st.integers(1, 300))
    kind = torch.uint8 if size <= 256 else torch.int32
    indices = torch.randint(0, size, SHAPE, generator=generator).to(kind)
    centroids = draw(st.booleans())
    inner = draw(
        st.sampled_from(
            [
                Dense(torch.randn(SHAPE, generator=generator)),
                affine(SHAPE, granularity, n_bits, generator, signed=signed),
                Codebook(
                    indices,
                    affine((size,), PerTensor(), n_bits, generator)
                    if centroids
                    else Dense(torch.randn(size, generator=generator)),
                ),
            ]
        )
    )
    if draw(st.booleans()):
        inner = Sparse(torch.rand(SHAPE, generator=generator) < draw(st.floats(0, 1)), inner)
    if draw(st.booleans()) and not isinstance(inner, Dense):
        axis = draw(st.integers(0, 2))
        inner = Scaled(inner, torch.randn(SHAPE[axis], generator=generator), axis)
    return inner


def same_bits(array, tensor):
    expected = tensor.contiguous().numpy()
    return array.dtype == expected.dtype and array.shape == expected.shape and array.tobytes() == expected.tobytes()


@given(encodings())
@settings(max_examples=150, deadline=None)
def test_a_file_decodes_to_the_same_bits_as_the_encoding(encoding):
    back = parse(serialize(Contents({"w": to_record(encoding)}))).records["w"]
    assert same_bits(decode_record(to_record(encoding)), decode(encoding))
    assert same_bits(decode_record(back), decode(encoding))
    again = from_record(back)
    assert torch.equal(decode(again), decode(encoding))
    assert describe(again) == describe(encoding) == describe_record(back)


def test_encodings_from_a_file_own_their_memory():
    record = to_record(Dense(torch.zeros(3)))
    encoding = from_record(record)
    decode(encoding)[0] = 1
    assert decode_record(record)[0] == 0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.relu(self.norm(self.first(x))))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return CompressedModel.dense(Net().eval())


def test_metadata_tells_how_the_model_came_to_be(model):

    told = replace(
        model,
        history=(
            Record(technique="PruneWeights", settings={"sparsity": 0.5}, seed=3, version="1", curve=({"loss": 1.0},)),
        ),
        edits=(FoldedBatchNorm("first", "norm"),),
        activations={CallSite("first", 0): ActivationQuantizer(scale=0.5, zero_point=3)},
    )
    contents = to_contents(told, graph=b"", metadata={"classes": ["a"], "digest": "mine"})
    metadata = parse(serialize(contents)).metadata
    assert metadata["classes"] == ["a"]
    assert metadata["digest"] == told.digest()
    assert metadata["n_dense_weights"] == sum(p.numel() for p in model.network.parameters())
    assert metadata["history"][0]["settings"] == {"sparsity": 0.5}
    assert metadata["edits"] == [{"type": "FoldedBatchNorm", "layer": "first", "batchnorm": "norm"}]
    assert metadata["activations"]["first:0:0"]["zero_point"] == 3


def test_numbers_that_the_format_does_not_know_are_obstacles(tmp_path):
    half = CompressedModel.dense(nn.Linear(2, 2).to(torch.bfloat16))
    (first, second) = NativeExporter().obstacles(half)
    assert "bfloat16" in first
    assert "'bias'" in second
    with pytest.raises(ExportError, match="bfloat16"):
        NativeExporter().export(half, torch.zeros(1, 2), tmp_path / "m.dwn")
    assert list(tmp_path.iterdir()) == []


def test_a_projection_inside_an_lstm_is_an_obstacle():
    network = nn.Sequential(nn.LSTM(3, 4), nn.LSTM(3, 4, proj_size=2))
    for exporter in (NativeExporter(), OnnxExporter()):
        (reason,) = exporter.obstacles(CompressedModel.dense(network))
        assert reason.startswith("'1' is an LSTM with proj_size")


def test_too_many_centroids_are_an_obstacle(model):
    indices = torch.zeros(8, 6, dtype=torch.int32)
    changed = model.with_encodings({"first.weight": Codebook(indices, Dense(torch.zeros(70_000)))})
    (reason,) = NativeExporter().obstacles(changed)
    assert "70000 centroids" in reason


def test_export_writes_a_file_that_runs(model, tmp_path):
    pytest.importorskip("onnxruntime")
    from dwindle.container.session import open_session

    support = torch.rand(8, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    changed = model.with_encodings({"first.weight": Sparse(support, Dense(decode(model.encodings["first.weight"])))})
    exporter = NativeExporter(metadata={"classes": ["a", "b", "c"]})
    assert exporter.format == "dwn"
    assert exporter.obstacles(changed) == []
    x = torch.randn(5, 6)
    artifact = exporter.export(changed, x[:2], tmp_path / "m.dwn")
    assert (artifact.format, artifact.origin) == ("dwn", changed.digest())
    assert artifact.size_bytes == (tmp_path / "m.dwn").stat().st_size
    contents = read(artifact.path)
    for name, tensor in changed.network.state_dict().items():
        assert same_bits(contents.state_dict()[name], tensor), name
    session = open_session(contents)
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(y, changed.network(x).detach().numpy(), rtol=1e-4, atol=1e-5)
    again = exporter.export(changed, x[:2], tmp_path / "again.dwn")
    assert again.sha256 == artifact.sha256


def test_two_runs_that_took_different_times_give_the_same_bytes(model):
    def after(seconds):
        record = Record(
            technique="FineTune", settings={}, seed=0, version="1", curve=({"loss": 0.5, "seconds": seconds},)
        )
        return replace(model, history=(record,))

    assert serialize(to_contents(after(1.0), graph=b"", metadata={})) == serialize(
        to_contents(after(2.5), graph=b"", metadata={})
    )
