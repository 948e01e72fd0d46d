"""This file writes a model as a `.pte` file for ExecuTorch, with our integers in it; XNNPACK runs what it can."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Generator
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle.artifact import Artifact
from dwindle.errors import ExportError
from dwindle.exporters.options import ExportOptions
from dwindle.exporters.program_options import fixed_program, option_obstacles, write_checked
from dwindle.network.activations import DynamicQuantizer
from dwindle.network.compressed import CompressedModel
from dwindle.network.inputs import Inputs
from dwindle.network.integer_program import IntegerProgram, integer_obstacles

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecuTorchExporter:
    """Exporter to ExecuTorch: float32, or int8 after `QuantizeStatic`.

    Unstructured zeros, codebooks and float16 have no form there: they are decoded. LSTM and GRU layers are unrolled
    over time and compute in floats.

    Attributes:
        options: batch size (1 unless given); ExecuTorch has no opsets and no place for class names.
    """

    options: ExportOptions = field(default_factory=ExportOptions)

    @property
    def format(self) -> str:
        """The artifact's format and file suffix."""
        return "pte"

    def obstacles(self, model: CompressedModel) -> list[str]:
        """Return the reasons why ExecuTorch cannot express `model`; empty if it can."""
        found = [*integer_obstacles(model), *option_obstacles(self.options)]
        if any(isinstance(quantizer, DynamicQuantizer) for quantizer in model.activations.values()):
            found.append("inputs quantized at run time are for onnx, dwn and tflite; use QuantizeStatic")
        if any(quantizer.n_bits == 16 for quantizer in model.activations.values()):
            found.append("XNNPACK has no kernels for 16-bit activations; use 8")
        if find_spec("executorch") is None:
            found.append("the package executorch is missing: pip install 'dwindle[executorch]'")
        return found

    def export(
        self, model: CompressedModel, example: Inputs, path: Path, *, graph: ModelProto | None = None
    ) -> Artifact:
        """Write `model` to `path`, whole or not at all; `example` is one input batch, `graph` is not read.

        Raises:
            NetworkError: the network cannot be captured.
            ExportError: ExecuTorch refuses the program, changes our integers, or the file cannot be written.
        """
        del graph
        if reasons := self.obstacles(model):
            raise ExportError("ExecuTorch cannot express this model: " + "; ".join(reasons))
        program = fixed_program(model, example, self.options, from_floats=False)
        return write_checked(path, lowered(program), program, by="ExecuTorch", origin=model.digest())


def lowered(program: IntegerProgram) -> bytes:
    """Return `program` as the bytes of a `.pte` file.

    Raises:
        ExportError: ExecuTorch refuses it.
    """
    with _quiet():
        try:
            exir: Any = import_module("executorch.exir")
            edge = exir.to_edge_transform_and_lower(program.program, partitioner=[_partitioner(program)])
            return bytes(edge.to_executorch().buffer)
        except Exception as error:  # its passes raise whatever they like
            raise ExportError(f"ExecuTorch refuses the network: {type(error).__name__}: {str(error)[:500]}") from error


def _partitioner(program: IntegerProgram) -> Any:
    configs: Any = import_module("executorch.backends.xnnpack.partition.config")
    partitioners: Any = import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    # XNNPACK (executorch 1.5) refuses at load what it took at export: padding that reads codes and gives floats.
    left_out = {"ConstantPadConfig"} if program.activations else set[str]()
    kept = [each for each in configs.ALL_PARTITIONER_CONFIGS if each.__name__ not in left_out]
    return partitioners.XnnpackPartitioner(configs=kept)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Keep the warnings of ExecuTorch's own passes away from the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
