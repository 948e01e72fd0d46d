"""This file tests what a program of one batch size is made from: the batch, the device."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dwindle.exporters.options import ExportOptions
from dwindle.exporters.program_options import fixed_program, option_obstacles
from dwindle.network.compressed import CompressedModel


@pytest.mark.parametrize(("asked", "size"), [(None, 1), (1, 1), (5, 5)])
def test_the_batch_is_the_files_whatever_the_example_holds(asked: int | None, size: int) -> None:
    model = CompressedModel.dense(nn.Linear(3, 2).eval())
    program = fixed_program(model, torch.randn(2, 3), ExportOptions(batch_size=asked), from_floats=False).program
    (given,) = program.example_inputs[0]
    assert given.shape == (size, 3)
    assert program.module(check_guards=False)(torch.randn(size, 3)).shape == (size, 2)


def test_a_network_on_another_device_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device without memory stands for one that this machine lacks; what is copied from it is made zero."""
    model = CompressedModel.dense(nn.Linear(3, 2).eval())
    model.network.to("meta")
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: torch.zeros(self.shape, dtype=self.dtype))
    program = fixed_program(model, torch.ones(2, 3, device="meta"), ExportOptions(), from_floats=False).program
    assert {tensor.device.type for tensor in program.state_dict.values()} == {"cpu"}
    assert model.network.get_parameter("weight").device.type == "meta"


def test_options_that_these_formats_lack_are_told() -> None:
    assert option_obstacles(ExportOptions(batch_size=7)) == []
    (reason,) = option_obstacles(ExportOptions(float_type="float16"))
    assert reason == "it computes in float32, not float16; CastHalf stores float16 weights"
