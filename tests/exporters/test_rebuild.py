"""This file tests making a model again from its file, and the files for other engines that are made from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import dwindle as dw
from dwindle.artifact import Artifact
from dwindle.bench.deployment import model_outputs
from dwindle.cli.main import app
from dwindle.container import read
from dwindle.errors import ContainerError, ExportError, NetworkError, RuntimeUnavailableError, SettingError
from dwindle.exporters import executorch, from_file, litert
from dwindle.exporters.from_file import export_file
from dwindle.exporters.graph_cache import GraphCache
from dwindle.exporters.rebuild import model_of
from dwindle.runtimes.openvino import OpenVinoRuntime

X = torch.rand(8, 2, 6, 6, generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    """A batch norm to fold, channels to cut, a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.more = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.more(torch.relu(self.norm(self.conv(x))))).mean((2, 3))
        return self.second(torch.relu(self.first(x)))


BUILDER = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.more = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x):
        x = torch.relu(self.more(torch.relu(self.norm(self.conv(x))))).mean((2, 3))
        return self.second(torch.relu(self.first(x)))
"""


def compressed(*steps: dw.Technique) -> dw.CompressedModel:
    torch.manual_seed(0)
    context = dw.Context(example=X[:2], calibration=[X])
    return dw.Recipe(steps).run(dw.CompressedModel.dense(Net().eval()), context)


STEPS = {
    "dense": (),
    "int8": (dw.QuantizeStatic(weights=7),),  # 8 bits saturate in OpenVINO on processors without VNNI
    "dynamic": (dw.QuantizeDynamic(),),
    "all": (dw.PruneWeights(sparsity=0.5), dw.Cluster(codebook_size=8), dw.QuantizeStatic(activations=16)),
    "half": (dw.FoldBatchNorm(), dw.CastHalf()),
    "fewer channels": (dw.PruneChannels(pruning_ratio=0.5, round_to=1), dw.QuantizeStatic()),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, tuple[dw.CompressedModel, Path]]:
    folder = tmp_path_factory.mktemp("files")
    made = {name: compressed(*steps) for name, steps in STEPS.items()}
    graphs = GraphCache()
    deployed = {n: dw.deploy(m, X, folder, formats=("dwn",), name=n, graphs=graphs) for n, m in made.items()}
    return {name: (model, deployed[name].artifacts["dwn"].path) for name, model in made.items()}


@pytest.mark.parametrize("name", STEPS)
def test_the_model_comes_back_bit_for_bit(name, files):
    model, path = files[name]
    again = model_of(read(path), Net)
    assert again.digest() == model.digest()
    assert dict(again.activations) == dict(model.activations)
    assert dict(again.aliases) == dict(model.aliases)
    assert again.n_dense_weights == model.n_dense_weights
    assert [type(e) for e in again.encodings.values()] == [type(model.encodings[n]) for n in again.encodings]
    np.testing.assert_array_equal(model_outputs(again, X)[0], model_outputs(model, X)[0])


def test_a_network_given_stays_as_it_is(files):
    network = Net()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    model_of(read(files["int8"][1]), network)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_what_does_not_fit_is_one_error(files):
    contents = read(files["int8"][1])
    with pytest.raises(NetworkError, match=r"(conv|norm)"):
        model_of(contents, nn.Sequential(nn.Linear(3, 2)), where="a.dwn")
    with pytest.raises(NetworkError, match=r"a\.dwn does not fit Linear: .*build the network that was compressed"):
        model_of(read(files["dense"][1]), nn.Linear(3, 2), where="a.dwn")


def test_a_number_of_weights_that_is_none_is_one_error(files):
    contents = read(files["dense"][1])
    contents = replace(contents, metadata={**contents.metadata, "n_dense_weights": "many"})
    with pytest.raises(SettingError, match=r"a\.dwn: n_dense_weights must be a number, not 'many'"):
        model_of(contents, Net, where="a.dwn")


# The command


class Written:
    """Takes the place of an exporter and notes what it is given."""

    def __init__(self, options) -> None:
        self.options = options

    def export(self, model, example, path):
        path.write_text(f"{model.digest()} {tuple(example.shape)} {self.options.batch_size}")
        return Artifact.of(path, origin=model.digest())


@pytest.mark.parametrize("to", ["tflite", "pte"])
def test_the_command_makes_the_model_again_in_the_network(to, files, tmp_path, monkeypatch):
    module, name = (executorch, "ExecuTorchExporter") if to == "pte" else (litert, "LiteRtExporter")
    monkeypatch.setattr(module, name, Written)
    (tmp_path / "mine.py").write_text(BUILDER)
    model, path = files["all"]
    out = tmp_path / f"new.{to}"
    called = ["export", str(path), "--to", to, "--out", str(out), "--network", "mine.py:Net", "--batch-size", "3"]
    result = CliRunner().invoke(app, called, catch_exceptions=False)
    assert result.exit_code == 0
    assert out.read_text() == f"{model.digest()} (1, 2, 6, 6) 3"
    assert f"new.{to}" in result.output
    assert "compiling for " in result.stderr


def test_wrong_calls_say_why(files, tmp_path):
    _, path = files["int8"]
    for to in ("tflite", "pte"):
        with pytest.raises(SettingError, match=rf"a \.{to} is made from the network.*give it \(--network package"):
            export_file(path, to)
    with pytest.raises(SettingError, match=r"out\.bin does not end in \.xml.*call it out\.bin\.xml"):
        export_file(path, "xml", tmp_path / "out.bin")
    for arguments, told in (
        (("--to", "onnx", "--network", "mine.py:Net"), "--network is for --to tflite or --to pte, not for --to onnx"),
        (("--to", "pte", "--opset", "17"), "--opset is for --to onnx or --to xml, not for --to pte"),
        (("--to", "c", "--batch-size", "1"), "--to tflite or --to pte, not for --to c"),
    ):
        result = CliRunner().invoke(app, ["export", str(path), *arguments], env={"COLUMNS": "200"})
        assert result.exit_code == 2
        assert told in " ".join(result.output.replace("│", " ").split())


def test_a_file_that_preprocesses_is_refused(tmp_path):
    options = dw.ExportOptions(preprocessing=dw.Preprocessing(scale=1 / 255))
    deployed = dw.deploy(compressed(), X, tmp_path, formats=("dwn",), options=options)
    with pytest.raises(ExportError, match=r"preprocesses its input, which a \.pte made from its network would not"):
        export_file(deployed.artifacts["dwn"].path, "pte", network=Net)
    assert [path.name for path in tmp_path.iterdir()] == ["model.dwn"]


def test_openvino_ir_needs_the_file_alone(files, tmp_path):
    pytest.importorskip("openvino", reason="needs openvino")
    model, path = files["int8"]
    (artifact,) = export_file(path, "xml", tmp_path / "new.xml", batch_size=2)
    assert {file.name for file in tmp_path.iterdir()} == {"new.xml", "new.bin"}
    assert artifact.origin == model.digest()
    with OpenVinoRuntime().load(artifact) as session:
        assert session.inputs[0].shape == (2, 2, 6, 6)
        (answer,) = session.run(X.numpy())
    (ours,) = model_outputs(model, X)
    assert np.abs(ours - answer).max() <= 0.05 * np.abs(ours).max()


def test_where_openvino_is_missing_it_says_what_to_install(files, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailableError, match=r"pip install 'dwindle\[openvino\]'"):
        export_file(files["dense"][1], "xml", tmp_path / "new.xml")
    assert not list(tmp_path.iterdir())


def test_a_file_without_a_graph_has_no_example(files, monkeypatch, tmp_path):
    contents = read(files["dense"][1])
    monkeypatch.setattr(from_file, "read", lambda path: replace(contents, graph=b""))
    with pytest.raises(ContainerError, match="weights but no graph"):
        export_file(files["dense"][1], "pte", tmp_path / "m.pte", network=Net)
