from __future__ import annotations

import gc
import subprocess
import sys
import zlib

import numpy as np
import pytest

from dwindle.container import Contents, parse, read, serialize, write
from dwindle.container.inspect import inspect_file
from dwindle.container.reader import open_file
from dwindle.container.records import AffineRecord, CodebookRecord, DenseRecord, SparseRecord
from dwindle.container.references import external_names
from dwindle.container.session import external_arrays, open_session
from dwindle.errors import ContainerError, RuntimeUnavailableError, SettingError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def reference(name, kind, shape):
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=shape, data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=name)
    return tensor


@pytest.fixture
def contents():
    """y = x @ dequantize(q) + relu-free float weight, with one weight as integers and one (tied) as floats."""
    helper, kind = onnx.helper, onnx.TensorProto
    rng = np.random.default_rng(0)
    codes = AffineRecord(
        rng.integers(-127, 128, (200, 100), dtype=np.int32),
        np.full(100, 0.01, np.float32),
        np.zeros(100, np.int32),
        ("channel", 1),
        8,
        True,
    )
    shared = SparseRecord(
        rng.random((100, 50)) < 0.2,
        CodebookRecord(
            rng.integers(0, 16, (100, 50)).astype(np.uint8), DenseRecord(rng.normal(size=16).astype(np.float32))
        ),
    )
    nodes = [
        helper.make_node("DequantizeLinear", ["q/codes", "q/scale", "q/zero_point"], ["q"], axis=1),
        helper.make_node("MatMul", ["x", "q"], ["h"]),
        helper.make_node("MatMul", ["h", "tied"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind.FLOAT, ["n", 200])],
        [helper.make_tensor_value_info("y", kind.FLOAT, ["n", 50])],
        initializer=[
            reference("q/codes", kind.INT8, (200, 100)),
            reference("q/scale", kind.FLOAT, (100,)),
            reference("q/zero_point", kind.INT8, (100,)),
            reference("tied", kind.FLOAT, (100, 50)),
            helper.make_tensor("inside", kind.FLOAT, (1,), [1.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    metadata = {"n_dense_weights": 25_000}
    return Contents({"q": codes, "w": shared}, {"tied": "w"}, model.SerializeToString(), metadata)


def test_a_session_computes_with_the_weights(contents, tmp_path):
    write(tmp_path / "m.dwn", contents)
    back = read(tmp_path / "m.dwn")
    state = back.state_dict()
    session = open_session(back, n_threads=1)
    del back
    gc.collect()
    x = np.random.default_rng(1).normal(size=(3, 200)).astype(np.float32)
    (y,) = session.run(None, {"x": x})
    np.testing.assert_allclose(y, x @ state["q"] @ state["w"], rtol=1e-4, atol=1e-4)


def test_no_thread_is_not_all_of_them(contents):
    with pytest.raises(SettingError, match="n_threads must be at least 1, got 0"):
        open_session(contents, n_threads=0)


def test_an_opened_file_gives_the_same_arrays_and_runs(contents, tmp_path):
    write(tmp_path / "m.dwn", contents)
    with open_file(tmp_path / "m.dwn") as opened:
        found, expected = external_arrays(opened), external_arrays(contents)
        session = open_session(opened)
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].tobytes()) == (array.dtype, array.tobytes())
    x = np.ones((2, 200), np.float32)
    assert np.array_equal(session.run(None, {"x": x})[0], open_session(contents).run(None, {"x": x})[0])


def test_names_without_data(contents):
    assert external_names(contents.graph) == ("q/codes", "q/scale", "q/zero_point", "tied")
    assert external_names(b"") == ()
    assert external_arrays(contents)["tied"].shape == (100, 50)


@pytest.mark.parametrize("graph", [b"\xff" * 20, b"\x3a\x7f", b"\x3b", b"\x08", b"\x09\0", b"\x0d\0"])
def test_a_graph_that_is_none(graph):
    with pytest.raises(ContainerError, match="not an ONNX model"):
        external_names(graph)


def test_fields_of_every_wire_type_are_skipped():
    assert external_names(b"\x08\x01\x09" + bytes(8) + b"\x0d" + bytes(4) + b"\x38\x01\x3a\x02\x28\x01") == ()


def test_no_graph():
    with pytest.raises(ContainerError, match="no graph"):
        open_session(Contents({}))


@pytest.mark.parametrize("missing", ["q", "w"])
def test_a_weight_that_is_not_there(contents, missing):
    records = {name: record for name, record in contents.records.items() if name != missing}
    aliases = {} if missing == "w" else contents.aliases
    with pytest.raises(ContainerError, match="does not hold"):
        open_session(Contents(records, aliases, contents.graph))


def test_integers_that_a_weight_does_not_have(contents):
    records = {**contents.records, "q": DenseRecord(np.zeros((200, 100), np.float32))}
    with pytest.raises(ContainerError, match="'q/codes'"):
        open_session(Contents(records, contents.aliases, contents.graph))


def test_a_graph_that_the_engine_refuses(contents):
    graph = contents.graph.replace(b"MatMul", b"MatPul")
    with pytest.raises(ContainerError, match="cannot run the graph"):
        open_session(Contents(contents.records, contents.aliases, graph))


def test_no_engine(contents, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeUnavailableError, match="pip install onnxruntime"):
        open_session(contents)


def test_the_ledger_adds_up(contents, tmp_path):
    path = tmp_path / "m.dwn"
    write(path, contents)
    sizes = inspect_file(path)
    size = path.stat().st_size
    parts = sizes.header_bytes + sizes.graph_bytes + sizes.overhead_bytes + sizes.encoded_bytes
    assert sizes.file_bytes == size == parts
    assert sizes.compression_ratio == 100_000 / size
    q, w = sizes.tensors
    assert (q.name, q.shape, q.structure, q.n_weights) == ("q", (200, 100), "Affine(8 bit)", 20_000)
    assert (q.raw_bytes, q.runtime_bytes) == (80_000, 20_000 + 400 + 100)
    assert w.structure == "Sparse(Codebook(16, Dense))"
    assert w.runtime_bytes == w.raw_bytes == 20_000
    assert w.sparsity == 1 - np.count_nonzero(contents.state_dict()["w"]) / 5000
    assert (sizes.n_weights, sizes.raw_bytes, sizes.runtime_bytes) == (25_000, 100_000, 40_500)
    assert sizes.sparsity == pytest.approx((w.sparsity * 5000 + q.sparsity * 20_000) / 25_000)
    state = contents.state_dict()
    expected = sum(len(zlib.compress(state[name].tobytes(), 9)) - 6 for name in ("q", "w"))
    assert sizes.zip_bytes() == expected


def test_the_ledger_of_nothing(tmp_path):
    write(tmp_path / "m.dwn", Contents({"e": DenseRecord(np.zeros((0,), np.float32))}))
    sizes = inspect_file(tmp_path / "m.dwn")
    assert (sizes.n_weights, sizes.sparsity, sizes.compression_ratio) == (0, 0.0, None)


@pytest.mark.parametrize("claimed", [10**4000, -5, 0, True, "many"])
def test_a_number_of_weights_that_cannot_be_is_not_believed(claimed, tmp_path):
    write(tmp_path / "m.dwn", Contents({}, metadata={"n_dense_weights": claimed}))
    assert inspect_file(tmp_path / "m.dwn").compression_ratio is None


DEVICE = """
import sys
for name in ("torch", "onnx", "scipy", "lightning_fabric", "sklearn"):
    sys.modules[name] = None
from pathlib import Path
import numpy as np
from dwindle.container import read
from dwindle.container.session import open_session
contents = read(Path(sys.argv[1]))
(y,) = open_session(contents).run(None, {"x": np.ones((1, 200), np.float32)})
expected = np.ones((1, 200), np.float32) @ contents.state_dict()["q"] @ contents.state_dict()["w"]
print(float(np.abs(y - expected).max() / np.abs(expected).max()) < 1e-4)
"""


def test_a_device_without_torch_runs_the_file(contents, tmp_path):
    write(tmp_path / "m.dwn", contents)
    command = [sys.executable, "-c", DEVICE, str(tmp_path / "m.dwn")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr


def test_damage_anywhere_in_a_large_file_is_noticed(contents):
    data = bytearray(serialize(contents))
    assert len(data) > 10_000
    rng = np.random.default_rng(3)
    for position, bit in zip(rng.integers(0, len(data), 400).tolist(), rng.integers(0, 8, 400).tolist(), strict=True):
        data[position] ^= 1 << bit
        with pytest.raises(ContainerError, match=r"."):
            parse(bytes(data))
        data[position] ^= 1 << bit
    for length in rng.integers(0, len(data), 100).tolist():
        with pytest.raises(ContainerError, match=r"."):
            parse(bytes(data[:length]))
