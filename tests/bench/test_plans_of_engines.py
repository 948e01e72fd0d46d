"""This file tests our plans beside those that engines make for the same integers."""

from __future__ import annotations

import onnx
import pytest

import dwindle as dw
from dwindle.bench.live_tensors import memory_of_graph
from dwindle.bench.planner import LITERT
from dwindle.bench.probes.planned_memory import planned_bytes


@pytest.fixture
def model_file(engine_models, engine_images, tmp_path):
    return dw.deploy(engine_models["int8"], engine_images[:1], tmp_path, formats=("onnx",)).artifacts["onnx"].path


def test_litert_plans_what_we_plan_for_it(engine_file, model_file):
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
    ours = memory_of_graph(onnx.load(model_file), planner=LITERT).arena_bytes
    assert ours is not None
    assert planned_bytes(engine_file("int8", "tflite")) == pytest.approx(ours, rel=0.1)


def test_a_delegate_hides_its_memory_from_the_plan_of_a_program(engine_file, engine_images):
    pytest.importorskip("executorch", reason="needs executorch")
    planned = planned_bytes(engine_file("int8", "pte"))
    n_bytes_in = engine_images[:1].numel() * 4
    assert n_bytes_in <= planned < 4 * n_bytes_in
