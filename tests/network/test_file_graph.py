"""This file tests what is read from the graph in a file, hostile ones included."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from dwindle.errors import ContainerError
from dwindle.network.file_graph import example_of, read_graph


def graph(*inputs: onnx.ValueInfoProto) -> onnx.ModelProto:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])
    return helper.make_model(helper.make_graph([], "g", list(inputs), [output]))


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff", onnx.ModelProto().SerializeToString(), b"no graph at all"])
def test_a_graph_that_is_none_is_one_error(data: bytes) -> None:
    with pytest.raises(ContainerError, match=r"no graph|not an ONNX model|no input"):
        read_graph(data)


def test_an_example_fits_the_graph() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 6])
    words = helper.make_tensor_value_info("words", TensorProto.INT64, [3, 5])
    half = helper.make_tensor_value_info("half", TensorProto.BFLOAT16, [None])
    example = example_of(read_graph(graph(x, words, half).SerializeToString()))
    assert [(tuple(part.shape), part.dtype) for part in example] == [
        ((1, 2, 6), torch.float32),
        ((3, 5), torch.int64),
        ((1,), torch.bfloat16),
    ]
    assert isinstance(example_of(graph(x)), torch.Tensor)


@pytest.mark.parametrize(("kind", "sizes"), [(TensorProto.STRING, [1]), (99, [1]), (TensorProto.FLOAT, [-1, 2])])
def test_an_input_that_torch_does_not_know_is_one_error(kind: int, sizes: list[int]) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)
    value.type.tensor_type.elem_type = kind
    with pytest.raises(ContainerError, match="input 'x' of this file is no batch that torch knows"):
        example_of(graph(value))
