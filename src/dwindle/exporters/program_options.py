"""This file applies the options of an export to formats that hold a torch program instead of an ONNX graph."""

from __future__ import annotations

import torch

from dwindle.exporters.options import ExportOptions
from dwindle.network.inputs import Inputs, n_examples, take


def option_obstacles(options: ExportOptions) -> list[str]:
    """Return a sentence for each option that these formats do not have."""
    found: list[str] = []
    if options.preprocessing is not None:
        found.append("preprocessing cannot be put into this format; deploy as onnx or dwn, or put it into the network")
    if options.float_type != "float32":
        found.append(f"it computes in float32, not {options.float_type}; CastHalf stores float16 weights")
    return found


def fixed_example(example: Inputs, options: ExportOptions) -> Inputs:
    """Return `example` with the batch size of the file, 1 unless another is asked for."""
    return take(example, torch.arange(options.batch_size or 1) % n_examples(example))
