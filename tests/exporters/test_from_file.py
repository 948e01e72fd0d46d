"""This file tests what becomes of a `.dwn` file alone, options, hostile graphs and the command included."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn
from typer.testing import CliRunner

import dwindle as dw
from dwindle.cli.main import app
from dwindle.container import read, write
from dwindle.errors import ContainerError, ExportError, SettingError
from dwindle.exporters.from_file import export_file, export_onnx
from dwindle.exporters.graph_cache import GraphCache
from dwindle.exporters.integer_layers import integer_biases, quantized_values
from dwindle.runtimes.onnxruntime import OnnxRuntime


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A quantized model as .dwn and .onnx."""
    folder = tmp_path_factory.mktemp("deployed")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    x = torch.randn(4, 2, 8, 8)
    model = dw.QuantizeStatic().apply(dw.CompressedModel.dense(network), dw.Context(example=x, calibration=[x]))
    graphs, metadata = GraphCache(), {"class_names": ["a", "b", "c"], "nested": {"z": 1, "a": [2.5]}}
    dw.deploy(model, x, folder, metadata=metadata, graphs=graphs)
    dw.deploy(dw.CompressedModel.dense(network), x, folder, formats=("dwn",), name="floats", graphs=graphs)
    return folder


def test_without_options_it_is_the_deployed_file(folder, tmp_path):
    artifact = export_onnx(read(folder / "model.dwn"), tmp_path / "again.onnx")
    assert artifact.path.read_bytes() == (folder / "model.onnx").read_bytes()
    assert artifact.origin == read(folder / "model.dwn").metadata["digest"]


def test_options_apply_to_the_graph_of_the_file(folder, tmp_path):
    artifact = export_onnx(read(folder / "model.dwn"), tmp_path / "a.onnx", opset=17, ir_version=9, batch_size=2)
    proto = onnx.load(artifact.path)
    assert (proto.opset_import[0].version, proto.ir_version) == (17, 9)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    x = np.random.default_rng(0).normal(size=(2, 2, 8, 8)).astype(np.float32)
    answers: list[np.ndarray] = []
    for path in (artifact.path, folder / "model.onnx"):
        with OnnxRuntime().load(replace(artifact, path=path)) as session:
            answers.append(session.run(x)[0])
    np.testing.assert_array_equal(*answers)


def test_what_the_graph_cannot_become_is_refused(folder, tmp_path):
    quantized, floats = read(folder / "model.dwn"), read(folder / "floats.dwn")
    with pytest.raises(ExportError, match="is for float networks, this one computes in integers"):
        export_onnx(quantized, tmp_path / "a.onnx", float_type="float16")
    with pytest.raises(SettingError, match="opset must be in"):
        export_onnx(quantized, tmp_path / "a.onnx", opset=99)
    assert not list(tmp_path.iterdir())
    half = onnx.load(export_onnx(floats, tmp_path / "half.onnx", float_type="float16").path)
    assert TensorProto.FLOAT not in {tensor.data_type for tensor in half.graph.initializer}


def test_what_a_file_was_written_for_cannot_be_taken_back(folder, tmp_path):
    network = nn.Linear(3, 2)
    options = dw.ExportOptions(opset=17, batch_size=2, float_type="float16")
    dw.deploy(dw.CompressedModel.dense(network), torch.ones(2, 3), tmp_path, formats=("dwn",), options=options)
    contents = read(tmp_path / "model.dwn")
    for wanted, message in (
        ({"opset": 21}, "written in opset 17 and cannot become 21"),
        ({"batch_size": 3}, "accepts batches of 2 only, not 3"),
        ({"float_type": "float32"}, "computes in float16; deploy the model again"),
    ):
        with pytest.raises(ExportError, match=message):
            export_onnx(contents, tmp_path / "a.onnx", **wanted)
    same = export_onnx(contents, tmp_path / "a.onnx", opset=17, batch_size=2, float_type="float16")
    assert onnx.load(same.path).opset_import[0].version == 17


def test_double_precision_does_not_become_float16_in_silence(tmp_path):
    model, options = dw.CompressedModel.dense(nn.Linear(3, 2).double()), dw.ExportOptions(float_type="float16")
    with pytest.raises(ExportError, match=r"'bias' is float64; call network\.float\(\)"):
        dw.deploy(model, torch.ones(2, 3).double(), tmp_path, options=options)


def test_a_weight_beyond_float16_is_named(folder, tmp_path):
    contents = read(folder / "floats.dwn")
    contents.records["0.bias"].values[0] = 1e6
    with pytest.raises(ExportError, match=r"'0\.bias' holds 1e\+06, beyond 65504"):
        export_onnx(contents, tmp_path / "a.onnx", float_type="float16")


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (b"", "no graph"),
        (b"\xff\xff\xff", "not an ONNX model"),
        (onnx.ModelProto().SerializeToString(), "no graph|no input"),
    ],
)
def test_a_graph_that_is_none_is_refused(folder, graph, message, tmp_path):
    with pytest.raises(ContainerError, match=message):
        export_onnx(replace(read(folder / "floats.dwn"), graph=graph), tmp_path / "a.onnx")


def test_a_graph_cannot_reach_for_other_files(folder, tmp_path):
    contents = read(folder / "floats.dwn")
    proto = onnx.ModelProto.FromString(contents.graph)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(16))
    bias = next(t for t in proto.graph.initializer if t.name == "0.bias")
    bias.name = "elsewhere"
    bias.external_data[0].value = str(secret)
    for node in proto.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = "elsewhere" if name == "0.bias" else name
    with pytest.raises(ExportError, match=r"not valid ONNX.*elsewhere"):
        export_onnx(replace(contents, graph=proto.SerializeToString()), tmp_path / "a.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_firmware_gets_biases_on_the_grid_of_the_accumulator(folder, tmp_path):
    contents = read(folder / "model.dwn")
    proto = onnx.ModelProto.FromString(contents.graph)
    biases = integer_biases(proto, contents.records)
    assert [bias.tensor for bias in biases] == ["0.bias", "3.bias"]
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(folder / "model.onnx").graph.initializer}
    for bias in biases:
        np.testing.assert_array_equal(bias.codes, tensors[f"{bias.layer}/bias/codes"])
        assert bias.codes.dtype == np.int32
    assert set(quantized_values(proto)) >= {proto.graph.input[0].name}
    header, source = export_file(folder / "model.dwn", "c-int8", tmp_path / "net.c")
    assert (header.path.name, source.path.name) == ("net.h", "net.c")
    assert header.path.read_text().count("in int32, for the node") == 2


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_the_command_writes_beside_the_file_and_tells_what(folder, tmp_path):
    path = tmp_path / "net.dwn"
    write(path, read(folder / "model.dwn"))
    assert invoke("export", path, "--to", "onnx", "--opset", "18", "--batch-size", "1")[0] == 0
    code, told = invoke("export", path, "--to", "c-int8", "--json")
    assert code == 0
    files = json.loads(told)["files"]
    assert [Path(file["path"]).name for file in files] == ["net.h", "net.c"]
    assert all(file["size_bytes"] == Path(file["path"]).stat().st_size for file in files)
    code, told = invoke("export", path, "--to", "c", "--out", tmp_path / "firmware" / "blob")
    assert "blob.h" in told
    assert "blob.c" in told
    assert sorted(p.name for p in tmp_path.iterdir()) == ["firmware", "net.c", "net.dwn", "net.h", "net.onnx"]


def test_a_folder_to_write_to_takes_the_files(folder, tmp_path):
    (tmp_path / "there").mkdir()
    assert invoke("export", folder / "model.dwn", "--to", "c", "--out", f"{tmp_path}/c/")[0] == 0
    assert invoke("export", folder / "model.dwn", "--out", tmp_path / "there")[0] == 0
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")) == [
        "c/model.c",
        "c/model.h",
        "there/model.onnx",
    ]


def test_wrong_calls_say_why(folder, tmp_path):
    code, told = invoke("export", folder / "model.dwn", "--to", "c", "--opset", "17")
    assert code == 2
    assert "--opset is for --to onnx" in told
    assert invoke("export", folder / "model.dwn", "--to", "cpp")[0] == 2
    with pytest.raises(ContainerError, match="cannot read"):
        invoke("export", tmp_path / "absent.dwn")


def test_options_that_a_target_lacks_are_refused(folder: Path, tmp_path: Path) -> None:
    for to, wanted, message in (
        ("c", {"batch_size": 1}, "c has no option 'batch_size'; it has none"),
        ("pte", {"opset": 17}, "pte has no option 'opset'; it has batch_size"),
        ("onnx", {"precision": "f32"}, "onnx has no option 'precision'; it has opset, ir_version, batch_size"),
    ):
        with pytest.raises(SettingError, match=message):
            export_file(folder / "model.dwn", to, tmp_path / f"m.{to}", network=nn.Identity(), **wanted)
    assert not list(tmp_path.iterdir())


def test_the_exported_file_is_not_overwritten(tmp_path: Path, folder: Path) -> None:
    source = tmp_path / "model.dwn"
    before = next(folder.glob("*.dwn")).read_bytes()
    source.write_bytes(before)
    with pytest.raises(SettingError, match="would be overwritten; give another path"):
        export_file(source, "onnx", source)
    weights = tmp_path / "model.bin"  # which OpenVINO calls its weights
    weights.write_bytes(before)
    with pytest.raises(SettingError, match=r"model\.bin is the file to export and would be overwritten"):
        export_file(weights, "xml")
    assert source.read_bytes() == weights.read_bytes() == before


def test_c_arrays_need_a_name(folder: Path) -> None:
    with pytest.raises(ExportError, match="names no file; give the name"):
        export_file(next(folder.glob("*.dwn")), "c", Path())
