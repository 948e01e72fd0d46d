"""This file writes a model as a `.tflite` file for LiteRT, with our integers in it, and reads it back."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from dwindle.artifact import Artifact
from dwindle.core.encoding import is_half
from dwindle.errors import ExportError
from dwindle.exporters import litert_child
from dwindle.exporters.litert_environment import INSTALL, converter_python
from dwindle.exporters.options import ExportOptions
from dwindle.exporters.program_options import fixed_program, option_obstacles, write_checked
from dwindle.network.compressed import CompressedModel
from dwindle.network.inputs import Inputs
from dwindle.network.integer_program import IntegerProgram, integer_obstacles

if TYPE_CHECKING:
    from onnx import ModelProto

_MINUTES: Final = 30
"""A converter that takes longer hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteRtExporter:
    """Exporter to LiteRT.

    The kind of file follows from the model: float32; float16 weights where `CastHalf` took them all; int8 weights with
    inputs ranged at run time after `QuantizeDynamic`; int8, or int8 with 16-bit activations, after `QuantizeStatic`.
    Unstructured zeros and codebooks have no form in LiteRT: they are decoded. LSTM and GRU layers are unrolled over
    time and compute in floats, also where the model quantizes them at run time. Indices become int32.

    Attributes:
        options: batch size (1 unless given); LiteRT has no opsets, and its files get no class names.
    """

    options: ExportOptions = field(default_factory=ExportOptions)

    @property
    def format(self) -> str:
        """The artifact's format and file suffix."""
        return "tflite"

    def obstacles(self, model: CompressedModel) -> list[str]:
        """Return the reasons why LiteRT cannot express `model`, or this machine cannot convert it; empty if it can."""
        found = [*integer_obstacles(model), *option_obstacles(self.options)]
        try:
            if converter_python() is None:
                found.append(f"LiteRT's converter is not installed: {INSTALL}")
        except ExportError as error:
            found.append(str(error))
        return found

    def export(
        self, model: CompressedModel, example: Inputs, path: Path, *, graph: ModelProto | None = None
    ) -> Artifact:
        """Write `model` to `path`, whole or not at all; `example` is one input batch, `graph` is not read.

        Raises:
            NetworkError: the network cannot be captured.
            ExportError: the converter refuses the program, changes our integers, or the file cannot be written.
        """
        del graph
        if reasons := self.obstacles(model):
            raise ExportError("LiteRT cannot express this model: " + "; ".join(reasons))
        program = fixed_program(model, example, self.options, from_floats=True)
        data = _convert(program, _mode(model, program))
        return write_checked(path, data, program, by="LiteRT's converter", origin=model.digest())


def _mode(model: CompressedModel, program: IntegerProgram) -> str:
    if program.activations:
        return "static"
    if program.is_dynamic:
        return "dynamic"
    parameters = [model.encodings[model.aliases.get(n, n)] for n, _ in model.network.named_parameters()]
    return "half" if parameters and all(map(is_half, parameters)) else "float"


def _convert(program: IntegerProgram, mode: str) -> bytes:
    """Return the bytes of the file, made by a process of the converter's own environment."""
    python = str(converter_python())
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "program.pt2", Path(folder) / "model.tflite"
            torch.export.save(program.program, source)
            # Isolated, because the folder of the script holds modules called like packages, and so may PYTHONPATH.
            command = [python, "-I", litert_child.__file__, str(source), str(target), mode]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60 * _MINUTES, check=False)
            if done.returncode == 0 and target.is_file():
                return target.read_bytes()
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        raise ExportError(
            f"LiteRT's converter did not finish: {error}; free disk space, or make it anew: {INSTALL}"
        ) from error
    raise ExportError(_refusal(done.returncode, done.stderr, python))


def _refusal(code: int, told: str, python: str) -> str:
    """Return why the converter gave no file."""
    if code < 0:
        return f"LiteRT's converter was ended by signal {-code}; it may have run out of memory, close other programs"
    lines = [line.strip() for line in told.splitlines() if "rror" in line] or ["no reason given"]
    if "No module named 'litert_torch'" in lines[-1]:
        return f"{python} has no litert-torch; {INSTALL} makes an environment that has it"
    return f"LiteRT's converter refuses the network: {lines[-1][:500]}"
