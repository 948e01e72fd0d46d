"""This file writes a `.dwn` file, or its int8 weights, as arrays in C, for firmware that has no file system.

Both forms are two files, a header and a source, that compile as C99 and as C++11. Arrays are `const`, so a linker puts
them into flash. The comment at the top of the header says what they were made from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from dwindle.artifact import Artifact
from dwindle.container.contents import Contents
from dwindle.container.integer import integer_form
from dwindle.container.records import Record, decode_record, describe_record
from dwindle.errors import ExportError
from dwindle.exporters.c_names import Names, comment
from dwindle.exporters.integer_layers import integer_biases, quantized_values
from dwindle.version import VERSION
from dwindle.whole_file import write_whole

if TYPE_CHECKING:
    from onnx import ModelProto

Array = npt.NDArray[Any]
ALIGNMENT: Final = 16
"""Bytes: what vector loads of small processors want, and what the numbers inside a `.dwn` never need more of."""
MAX_BYTES: Final = 64 << 20
"""Array data beyond this is nothing that a compiler reads in reasonable time."""
PER_LINE: Final = 16
TYPES: Final[Mapping[str, str]] = {
    **{name: f"{name}_t" for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
    "bool": "uint8_t",
    "float32": "float",
    "float16": "float",
    "float64": "double",
}
DIGITS: Final = {"float": ".9g", "double": ".17g"}
"""As many as bring back the same bits."""
SUFFIXES: Final = ("", "_codes", "_scale", "_zero_point", "_shape", "_rank", "_count", "_n_scales", "_axis")


def write_c_file(path: Path, contents: Contents, out: Path) -> tuple[Artifact, ...]:
    """Write the bytes of the `.dwn` file at `path` as `const uint8_t <name>_dwn[]`; `out` names the files to write.

    Args:
        path: the file.
        contents: what it contains, for the comment.
        out: path of the header or the source, or either without its suffix; its last part gives `<name>`.

    Raises:
        ExportError: the file is too large, gone, or the disk refuses.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror or error}") from error
    _require_size(len(data))
    name = Names(out.stem).claim("dwn", ("", "_bytes"))
    array = _Arrays()
    array.define(name, np.frombuffer(data, dtype=np.uint8))
    array.macro(f"{name}_bytes", len(data))
    intro = [
        *_manifest(path, contents),
        "",
        f"{name} is the whole file, aligned to {ALIGNMENT} bytes; {name.upper()}_BYTES is its length.",
    ]
    return _write(out, intro, array)


def write_c_codes(
    path: Path, contents: Contents, out: Path, *, graph: ModelProto | None = None
) -> tuple[Artifact, ...]:
    """Write int8 weights with scales and zero points, and all other tensors as they are, as arrays.

    Args:
        path: the file that `contents` were read from, for the comment.
        contents: its tensors.
        out: path of the header or the source, or either without its suffix; its last part begins every identifier.
        graph: the graph of the file; with it come scales and zero points of activations, and biases in int32.

    Raises:
        ExportError: no tensor has 8-bit codes, they are too many, or the disk refuses.
    """
    if all(integer_form(record) is None for record in contents.records.values()):
        raise ExportError(
            "no weight of this file has codes of 8 bits or less with one scale for the tensor or each channel; "
            "use QuantizeWeights or QuantizeStatic before, or write the file itself as an array"
        )
    names, arrays = Names(out.stem), _Arrays()
    lines: list[str] = []
    for name, record in sorted(contents.records.items()):
        claimed = names.claim(name, SUFFIXES)
        lines.append(f"  {claimed}: {comment(name)}, {describe_record(record)}")
        _define_tensor(arrays, claimed, record)
        _require_size(arrays.n_bytes)
    for alias, name in sorted(contents.aliases.items()):
        lines.append(f"  {comment(alias)} is the same tensor as {comment(name)}")
    if graph is not None:
        lines.extend(_define_layers(arrays, names, graph=graph, records=contents.records))
    intro = [*_manifest(path, contents), "", *EXPLANATION, "", *lines]
    return _write(out, intro, arrays)


EXPLANATION: Final = (
    "value = (code - zero_point) * scale, with one scale and zero point, or one of each for every index along",
    "<name>_AXIS (-1: one for all). Codes lie in row-major order of <name>_shape. Tensors without codes are numbers.",
    "An int32 bias stands for code * scale, on the grid of the accumulator: scale of the input times scale of the",
    "weight.",
)


def _define_tensor(arrays: _Arrays, name: str, record: Record) -> None:
    form = integer_form(record)
    if form is None:
        values = decode_record(record)
        arrays.define(name, values)
    else:
        values = form.codes
        arrays.define(f"{name}_codes", values)
        arrays.define(f"{name}_scale", form.scale)
        arrays.define(f"{name}_zero_point", form.zero_point)
        arrays.macro(f"{name}_n_scales", form.scale.size)
        arrays.macro(f"{name}_axis", -1 if form.axis is None else form.axis)
    arrays.define(f"{name}_shape", np.asarray(values.shape, dtype=np.int32))
    arrays.macro(f"{name}_rank", values.ndim)
    arrays.macro(f"{name}_count", values.size)


def _define_layers(arrays: _Arrays, names: Names, *, graph: ModelProto, records: Mapping[str, Record]) -> Iterator[str]:
    """Define what layers that compute in integers need beside their weights; yield a line about each."""
    for value, (scale, zero_point) in quantized_values(graph).items():
        name = names.claim(value, ("_scale", "_zero_point"))
        arrays.define(f"{name}_scale", scale)
        arrays.define(f"{name}_zero_point", zero_point)
        yield f"  {name}: the activation {comment(value)}"
    for bias in integer_biases(graph, records):
        name = names.claim(f"{bias.layer}_bias", ("_codes", "_scale", "_count"))
        arrays.define(f"{name}_codes", bias.codes)
        arrays.define(f"{name}_scale", bias.scale)
        arrays.macro(f"{name}_count", bias.codes.size)
        yield f"  {name}: {comment(bias.tensor)} in int32, for the node {comment(bias.layer)}"


class _Arrays:
    """Declarations for the header, definitions for the source."""

    def __init__(self) -> None:
        self.declarations: list[str] = []
        self.definitions: list[str] = []
        self.n_bytes = 0

    def macro(self, name: str, value: int) -> None:
        self.declarations.append(f"#define {name.upper()} {value}")

    def define(self, name: str, values: Array) -> None:
        kind = TYPES[values.dtype.name]
        flat = values.reshape(-1)
        length = max(flat.size, 1)  # C has no arrays of length zero
        self.n_bytes += flat.nbytes
        self.declarations.append(f"extern const {kind} {name}[{length}];")
        texts = _literals(flat, kind) if flat.size else ["0"]
        lines = [f"    {', '.join(texts[i : i + PER_LINE])}" for i in range(0, length, PER_LINE)]
        body = ",\n".join(lines)
        self.definitions.append(f"DWINDLE_ALIGNED const {kind} {name}[{length}] = {{\n{body}\n}};")


def _literals(flat: Array, kind: str) -> list[str]:
    if kind not in DIGITS:
        return [_integer(value, kind) for value in flat.tolist()]
    return [_real(value, kind) for value in flat.astype(np.float32 if kind == "float" else np.float64).tolist()]


def _integer(value: int, kind: str) -> str:
    if kind == "int64_t":
        return f"INT64_C({value})" if value > -(2**63) else "INT64_MIN"
    if kind == "int32_t":
        return str(value) if value > -(2**31) else "INT32_MIN"
    return {"uint64_t": f"UINT64_C({value})", "uint32_t": f"UINT32_C({value})"}.get(kind, str(int(value)))


def _real(value: float, kind: str) -> str:
    if not math.isfinite(value):
        return "NAN" if math.isnan(value) else ("INFINITY" if value > 0 else "-INFINITY")
    text = format(value, DIGITS[kind])
    text = text if any(mark in text for mark in ".e") else f"{text}.0"
    return f"{text}f" if kind == "float" else text


def _manifest(path: Path, contents: Contents) -> list[str]:
    made = Artifact.of(path)
    return [
        f"Made by dwindle {VERSION} from {comment(path.name)}: do not edit.",
        f"sha256 of the file: {made.sha256}",
        f"bytes of the file: {made.size_bytes}",
        f"digest of the model: {comment(str(contents.metadata.get('digest', 'unknown')))}",
        f"written by version: {comment(str(contents.metadata.get('version', 'unknown')))}",
    ]


def _require_size(n_bytes: int) -> None:
    if n_bytes > MAX_BYTES:
        raise ExportError(
            f"arrays of more than {MAX_BYTES} bytes are nothing that a compiler reads; "
            "let the linker include the file itself (ld -r -b binary, or .incbin)"
        )


def _write(out: Path, intro: list[str], arrays: _Arrays) -> tuple[Artifact, ...]:
    if not out.name:
        raise ExportError(f"{str(out)!r} names no file; give the name that the .h and .c begin with")
    base = out.with_suffix("") if out.suffix in {".c", ".h"} else out
    header, source = base.with_name(f"{base.name}.h"), base.with_name(f"{base.name}.c")
    guard = f"DWINDLE_{Names(base.name).prefix.upper()}_H"
    about = "\n".join(f" * {line}".rstrip() for line in intro)
    declared = "\n".join(arrays.declarations)
    defined = "\n\n".join(arrays.definitions)
    texts = {
        header: f"/*\n{about}\n */\n#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n{OPEN}\n{declared}\n"
        f"\n{CLOSE}\n#endif\n",
        source: f"/* Made by dwindle: see {comment(header.name)}. */\n{PREAMBLE}\n"
        f'#include "{comment(header.name)}"\n\n{ALIGNED}\n{defined}\n',
    }
    for path, text in texts.items():
        try:
            write_whole(path, text.encode("ascii"))
        except OSError as error:
            raise ExportError(
                f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
            ) from error
    return tuple(Artifact.of(path, origin="") for path in texts)


OPEN: Final = '#ifdef __cplusplus\nextern "C" {\n#endif\n'
CLOSE: Final = "#ifdef __cplusplus\n}\n#endif\n"
PREAMBLE: Final = "#ifndef __STDC_CONSTANT_MACROS\n#define __STDC_CONSTANT_MACROS\n#endif\n#include <math.h>"
ALIGNED: Final = f"""\
#if defined(__cplusplus)
#define DWINDLE_ALIGNED alignas({ALIGNMENT})
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define DWINDLE_ALIGNED _Alignas({ALIGNMENT})
#elif defined(__GNUC__)
#define DWINDLE_ALIGNED __attribute__((aligned({ALIGNMENT})))
#else
#define DWINDLE_ALIGNED
#endif
"""
