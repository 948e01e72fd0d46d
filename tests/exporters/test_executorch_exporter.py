"""This file tests files for ExecuTorch: the integers in them, and one clear error where there can be none."""

from __future__ import annotations

import importlib.util
import logging
import sys

import pytest
import torch
from torch import nn

from dwindle.container.integer import integer_form
from dwindle.errors import ExportError
from dwindle.exporters import executorch
from dwindle.exporters.executorch import ExecuTorchExporter
from dwindle.exporters.native import to_record
from dwindle.exporters.options import ExportOptions
from dwindle.exporters.preprocessing import Preprocessing
from dwindle.exporters.survival import lost_integers
from dwindle.network.compressed import CompressedModel
from dwindle.technique import Context
from dwindle.techniques.quantize_dynamic import QuantizeDynamic

ROW = torch.ones(1, 3)

NEEDS_THE_PACKAGE = pytest.mark.skipif(
    importlib.util.find_spec("executorch") is None, reason="needs the package executorch: make engines"
)


@pytest.fixture
def dense() -> CompressedModel:
    return CompressedModel.dense(nn.Linear(3, 2).eval())


def test_our_integers_and_scales_are_in_the_file(engine_file, engine_models):
    model, artifact = engine_models["int8"], engine_file("int8", "pte")
    forms = {w: integer_form(to_record(model.encodings[w])) for w in ("0.weight", "2.weight", "6.weight")}
    scales = [quantizer.scale for quantizer in model.activations.values()]
    assert lost_integers(artifact.path.read_bytes(), forms, scales) == []
    assert artifact.origin == model.digest()
    assert artifact.format == "pte"


@NEEDS_THE_PACKAGE
def test_what_it_has_no_kernels_for_is_an_obstacle(dense, engine_models):
    (reason,) = ExecuTorchExporter().obstacles(engine_models["int16"])
    assert reason == "XNNPACK has no kernels for 16-bit activations; use 8"
    dynamic = QuantizeDynamic().apply(dense, Context(example=ROW))
    (reason,) = ExecuTorchExporter().obstacles(dynamic)
    assert reason == "inputs quantized at run time are for onnx, dwn and tflite; use QuantizeStatic"
    options = ExportOptions(preprocessing=Preprocessing(scale=1 / 255))
    (reason,) = ExecuTorchExporter(options=options).obstacles(dense)
    assert reason.startswith("preprocessing cannot be put into this format")


def test_without_the_package_it_says_what_to_install(dense, tmp_path, monkeypatch):
    monkeypatch.setattr(executorch, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"pip install 'dwindle\[executorch\]'"):
        ExecuTorchExporter().export(dense, ROW, tmp_path / "model.pte")
    assert not list(tmp_path.iterdir())


@NEEDS_THE_PACKAGE
def test_what_its_passes_raise_is_one_error(dense, tmp_path, monkeypatch):
    def refuse(*args, **settings):
        raise KeyError("aten.strange")

    class Exir:
        to_edge_transform_and_lower = staticmethod(refuse)

    monkeypatch.setattr(executorch, "_partitioner", lambda program: None)
    monkeypatch.setitem(sys.modules, "executorch.exir", Exir)
    before = logging.root.manager.disable
    with pytest.raises(ExportError, match=r"ExecuTorch refuses the network: KeyError: 'aten\.strange'"):
        ExecuTorchExporter().export(dense, ROW, tmp_path / "model.pte")
    assert logging.root.manager.disable == before


@NEEDS_THE_PACKAGE
def test_changed_integers_are_found_out(engine_models, engine_images, tmp_path, monkeypatch):
    monkeypatch.setattr(executorch, "lowered", lambda program: b"something else")
    with pytest.raises(ExportError, match=r"ExecuTorch changed the codes of '0.weight', .*answer differently"):
        ExecuTorchExporter().export(engine_models["int8"], engine_images, tmp_path / "model.pte")
    assert not list(tmp_path.iterdir())


@NEEDS_THE_PACKAGE
def test_where_the_file_cannot_be_written_it_says_so(dense, tmp_path, monkeypatch):
    monkeypatch.setattr(executorch, "lowered", lambda program: b"x")
    (tmp_path / "model.pte").mkdir()
    with pytest.raises(ExportError, match=r"cannot write 1 bytes to .*model\.pte: .*a folder"):
        ExecuTorchExporter().export(dense, ROW, tmp_path / "model.pte")
