"""This file writes a compressed model as OpenVINO IR: an `.xml` with the graph and a `.bin` beside it with the weights.

OpenVINO reads our own `.onnx`, whose integers, scales and names it keeps. That they did survive is read back from the
written files before they are put in place.
"""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import numpy_helper

from dwindle.artifact import Artifact
from dwindle.container.integer import PARTS
from dwindle.container.records import Array
from dwindle.errors import ExportError, RuntimeUnavailableError
from dwindle.exporters.onnx import OnnxExporter
from dwindle.exporters.options import ExportOptions
from dwindle.network.compressed import CompressedModel
from dwindle.network.inputs import Inputs

MISSING: Final = "the package openvino is missing: pip install 'dwindle[openvino]'"
_KEPT: Final = (*PARTS, "indices", "table")
"""What our `.onnx` holds of a weight: its integers, or the indices and the table that they are looked up in."""
_NUMBERED: Final = re.compile(r"[A-Za-z]\w*_\d+")
"""A name that OpenVINO made: the operation and how many there were since the process began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVinoExporter:
    """Exporter to OpenVINO IR.

    Attributes:
        notes: free text entries for the file's metadata; they come to lie under `framework` in the `.xml`.
        options: opset, batch size, type of floats, preprocessing, class names.
    """

    notes: Mapping[str, str] = field(default_factory=dict[str, str])
    options: ExportOptions = field(default_factory=ExportOptions)

    @property
    def format(self) -> str:
        """The artifact's format and file suffix."""
        return "xml"

    def obstacles(self, model: CompressedModel) -> list[str]:
        """Return the reasons why OpenVINO IR cannot express `model`; empty if it can."""
        return self._onnx.obstacles(model)

    def export(
        self, model: CompressedModel, example: Inputs, path: Path, *, graph: onnx.ModelProto | None = None
    ) -> Artifact:
        """Write `model` to `path` and the `.bin` beside it; at no moment do they belong to different models.

        The bytes depend on the model, the example's shape, the settings and the version of OpenVINO.

        Raises:
            RuntimeUnavailableError: openvino is not installed.
            NetworkError: the network cannot be captured.
            ExportError: OpenVINO cannot express the model, changes its integers, or a file cannot be written.
        """
        return write_ir(path, lambda source: self._onnx.export(model, example, source, graph=graph))

    @property
    def _onnx(self) -> OnnxExporter:
        return OnnxExporter(notes=self.notes, options=self.options)


def write_ir(path: Path, make: Callable[[Path], Artifact]) -> Artifact:
    """Write the `.onnx` that `make` writes where it is told as IR to `path` and the `.bin` beside it.

    Neither is written where an error is raised before both are whole. A process that is killed while they are put in
    place may leave a `.bin` without its `.xml`, which no engine loads.

    Raises:
        RuntimeUnavailableError: openvino is not installed.
        ExportError: OpenVINO cannot convert it, changes its integers, or a file cannot be written.
    """
    if importlib.util.find_spec("openvino") is None:
        raise RuntimeUnavailableError(MISSING)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, so that moving the finished files is a rename, which cannot stop half way.
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as made:
            source = make(Path(made) / "model.onnx")
            written = Path(made) / path.name
            convert(source.path, written)
            _require_integers(source.path, written)
            _move(written, path)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error}; free space or choose another folder") from error
    return Artifact.of(path, origin=source.origin)


def convert(source: Path, target: Path) -> None:
    """Write the `.onnx` file `source` as IR to `target` and beside it; numbers keep their types.

    Raises:
        ExportError: OpenVINO cannot convert it.
    """
    openvino: Any = import_module("openvino")
    try:
        model = openvino.Core().read_model(str(source))
        for number, op in enumerate(model.get_ordered_ops()):
            if _NUMBERED.fullmatch(op.get_friendly_name()) and op.get_friendly_name() == op.get_name():
                op.set_friendly_name(f"{op.get_type_name()}.{number}")
        # A float16 graph of ours holds float16 already; to compress further would round scales, too.
        openvino.save_model(model, str(target), compress_to_fp16=False)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot convert this model: {error}; deploy as onnx") from error


def constants(path: Path) -> dict[str, Array]:
    """Return the constants in the IR at `path` by name; those whose type NumPy lacks are left out."""
    model: Any = import_module("openvino").Core().read_model(str(path))
    found: dict[str, Array] = {}
    for op in model.get_ops():
        if op.get_type_name() == "Constant" and op.get_element_type().size * 8 == op.get_element_type().bitwidth:
            found[op.get_friendly_name()] = np.array(op.data)
    return found


def _require_integers(source: Path, written: Path) -> None:
    """Compare the integers of every weight, their scales and zero points with what OpenVINO wrote.

    Integers of 4 bits are packed in another order there and are not compared.

    Raises:
        ExportError: one of them is missing or differs.
    """
    kept = constants(written)
    for tensor in onnx.load(source).graph.initializer:
        weight, _, part = tensor.name.rpartition("/")
        if not weight or part not in _KEPT or tensor.data_type in {onnx.TensorProto.INT4, onnx.TensorProto.UINT4}:
            continue
        ours, theirs = numpy_helper.to_array(tensor), kept.get(tensor.name)
        if theirs is None or theirs.dtype != ours.dtype or not np.array_equal(theirs, ours):
            raise ExportError(f"OpenVINO does not keep {tensor.name!r} as it is; deploy as onnx and report this model")


def _move(written: Path, path: Path) -> None:
    """Put both files in place, the `.xml` last; at no moment does it lie beside the `.bin` of another model."""
    others = (written.with_suffix(".bin"), path.with_suffix(".bin"))
    for file in (written, others[0]):
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
    path.unlink(missing_ok=True)
    others[0].replace(others[1])
    written.replace(path)
