"""This file holds what formats made from a torch program share: options, the program, the check of what was written."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dwindle.artifact import Artifact
from dwindle.container.integer import integer_form
from dwindle.errors import ExportError
from dwindle.exporters.native import to_record
from dwindle.exporters.options import ExportOptions
from dwindle.exporters.survival import lost_integers
from dwindle.network.compressed import CompressedModel
from dwindle.network.inputs import Inputs, as_tuple, n_examples, take
from dwindle.network.integer_program import IntegerProgram, integer_program
from dwindle.whole_file import write_whole


def option_obstacles(options: ExportOptions) -> list[str]:
    """Return a sentence for each option that these formats do not have."""
    found: list[str] = []
    if options.preprocessing is not None:
        found.append("preprocessing cannot be put into this format; deploy as onnx or dwn, or put it into the network")
    if options.float_type != "float32":
        found.append(f"it computes in float32, not {options.float_type}; CastHalf stores float16 weights")
    return found


def fixed_program(
    model: CompressedModel, example: Inputs, options: ExportOptions, *, from_floats: bool
) -> IntegerProgram:
    """Return `model` as a program of the batch size of the file, 1 unless another is asked for.

    Raises:
        NetworkError: the network cannot be captured.
    """
    model, example = _on_cpu(model, example)
    fixed = take(example, torch.arange(options.batch_size or 1) % n_examples(example))
    return integer_program(
        model, fixed, lambda name: integer_form(to_record(model.encodings[name])), from_floats=from_floats
    )


def write_checked(path: Path, data: bytes, program: IntegerProgram, *, by: str, origin: str) -> Artifact:
    """Write `data`, which the converter called `by` made of `program`, once its integers are found in it again.

    Raises:
        ExportError: an integer or a scale is missing, or the file cannot be written.
    """
    scales = [grid.scale for grid in program.activations]
    if lost := lost_integers(data, program.weights, scales):
        raise ExportError(f"{by} changed {', '.join(lost[:4])}; the file would answer differently")
    try:
        write_whole(path, data)
    except OSError as error:
        raise ExportError(f"cannot write {len(data)} bytes to {path}: {error}; free space") from error
    return Artifact.of(path, origin=origin)


def _on_cpu(model: CompressedModel, example: Inputs) -> tuple[CompressedModel, Inputs]:
    """Return both where converters compute; a network on another device is copied."""
    if all(tensor.device.type == "cpu" for tensor in as_tuple(example)):
        return model, example
    moved = tuple(tensor.cpu() for tensor in as_tuple(example))
    network = copy.deepcopy(model.network).cpu()
    return replace(model, network=network), moved[0] if isinstance(example, Tensor) else moved
