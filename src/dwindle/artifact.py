"""This file holds the only thing that may be measured: a file on disk with its hash."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Final, Self

from dwindle.errors import MeasurementError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

BESIDE: Final = {"xml": ".bin"}
"""Formats of more than one file: the suffix of the one that lies beside the first under the same name."""
_LOCATION: Final = b"\n\x08location"
"""How the key `location` of external data lies in an ONNX file: a file without these bytes keeps all data itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A deployable file, with those beside it that it cannot do without.

    Attributes:
        format: `dwn`, `onnx`, ...
        sha256: hex digest of the bytes on disk, those beside it included.
        size_bytes: of all its files.
        origin: `CompressedModel.digest()` of the model it was written from; empty if unknown.
    """

    path: Path
    format: str
    sha256: str
    size_bytes: int
    origin: str = ""

    @classmethod
    def of(cls, path: Path, *, origin: str = "") -> Self:
        """Return the artifact that lies at `path`; the format is the file's suffix.

        Raises:
            OSError: one of its files is missing or cannot be read; `filename` says which.
            MeasurementError: an ONNX model keeps data outside its folder.
        """
        sha = hashlib.sha256()
        name, size_bytes = path.suffix.lstrip("."), 0
        for part in files_of(path):
            with part.open("rb") as file:
                while block := file.read(1 << 20):
                    sha.update(block)
                    size_bytes += len(block)
        return cls(path=path, format=name, sha256=sha.hexdigest(), size_bytes=size_bytes, origin=origin)


def files_of(path: Path) -> tuple[Path, ...]:
    """Return `path` and what must lie beside it: the `.bin` of an `.xml`, the external data of an `.onnx`.

    Raises:
        OSError: the ONNX model at `path` cannot be read; where there is none, `path` alone is returned.
        MeasurementError: the ONNX model keeps data outside its folder.

    >>> [file.name for file in files_of(Path("model.xml"))]
    ['model.xml', 'model.bin']
    """
    suffix = path.suffix.lstrip(".")
    if suffix.lower() == "onnx":
        return (path, *(path.parent / location for location in _locations(path)))
    beside = BESIDE.get(suffix)
    return (path,) if beside is None else (path, path.with_suffix(beside))


def _locations(path: Path) -> tuple[str, ...]:
    """Return where the ONNX model at `path` keeps data, relative to its folder; the data themselves are not read."""
    if not path.is_file() or path.stat().st_size == 0:
        return ()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        if view.find(_LOCATION) < 0:
            return ()  # the rule, found without a parser
        data = view[:]
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        return ()  # no ONNX model, which whoever reads it will say
    found = (
        entry.value
        for tensor in _tensors(model)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    )
    return tuple(_inside(location, path) for location in dict.fromkeys(found))


def _inside(location: str, path: Path) -> str:
    """Return `location`; refuse one that leads out of the folder of `path`."""
    parts = PurePosixPath(location).parts
    is_rooted = PurePosixPath(location).is_absolute() or bool(PureWindowsPath(location).anchor)
    if not parts or is_rooted or ".." in {*parts, *PureWindowsPath(location).parts}:
        raise MeasurementError(
            f"{path} keeps weights in {location!r}, which is no file of its folder; save the model with its data "
            "beside it"
        )
    return location


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor that a model holds, those of its functions and inner graphs included."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)
    for training in model.training_info:
        yield from _of_graph(training.initialization)
        yield from _of_graph(training.algorithm)


def _of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from _of_graph(graph)
