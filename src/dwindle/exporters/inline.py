"""This file writes weights into an ONNX graph in the smallest form that onnxruntime unfolds when it loads the file.

What is written for a weight, and the nodes that unfold it. All of them are constant, so onnxruntime computes them once,
before it fuses QDQ pairs; DequantizeLinear alone it never folds, hence Cast and Mul where weights are read as floats.

| encoding | in the file | unfolded by |
|---|---|---|
| Affine, read as integers | int8 codes, int4 where they fit | (Cast int8) |
| Affine, read as floats | int4, int8 or 16-bit codes, scale, zero point | Cast float, Sub, Mul |
| Codebook, Sparse(Codebook) | uint4 (up to 16 table entries), uint8 or uint16 indices, table | Cast int32, Gather |
| the same with up to 2 or 4 table entries | 8 or 4 indices in a byte, table | BitShift, Slice, Reshape, Cast, Gather |
| Scaled(...) read as floats | and a factor for each channel | Mul |
| Scaled(Codebook) with a negative factor, read as integers | and a second, mirrored half of the table | Add, Gather |
| Half, Sparse(Half) | float16 numbers | Cast float |
| Dense, Sparse(Dense), Affine in groups that do not divide a row | floats | |

A sparse codebook has one more table entry, the zero: 15 centroids and the zero fit uint4, 16 and the zero take uint8.
Before opset 21 there are no 4-bit integers: what would take 4 bits takes 8.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from dwindle.container.integer import IntegerForm
from dwindle.container.records import (
    AffineRecord,
    CodebookRecord,
    DenseRecord,
    Record,
    ScaledRecord,
    SparseRecord,
    decode_record,
    holds_half,
    row_shape,
    shape_of_record,
)
from dwindle.exporters.tidy import node_for

Array = npt.NDArray[Any]
WIDEST_BITS: Final = 2
LARGEST_UINT4: Final = 15
LARGEST_UINT16: Final = (1 << 16) - 1
INT4: Final = (-8, 7)


class Unfolding:
    """The initializers and nodes that together make one tensor; each step names its result after the weight.

    Attributes:
        initializers: data of the file.
        nodes: what unfolds it, in order.
    """

    def __init__(self, name: str, *, has_int4: bool = True) -> None:
        self.name = name
        self.has_int4 = has_int4
        self.initializers: list[TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []

    def data(self, part: str, array: Array) -> str:
        """Add an initializer and return its name."""
        name = f"{self.name}/{part}" if part else self.name
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def packed(self, part: str, values: Array, dtype: int) -> str:
        """Add an initializer of UINT4 or INT4, two values a byte (one, without `has_int4`), and return its name."""
        if not self.has_int4:
            return self.data(part, values.astype(np.int8 if dtype == TensorProto.INT4 else np.uint8))
        name = f"{self.name}/{part}"
        nibbles = values.reshape(-1).astype(np.int8).view(np.uint8) & 0xF
        nibbles = np.append(nibbles, np.zeros(nibbles.size % 2, dtype=np.uint8))
        raw = (nibbles[::2] | (nibbles[1::2] << 4)).tobytes()
        self.initializers.append(TensorProto(name=name, data_type=dtype, dims=values.shape, raw_data=raw))
        return name

    def step(self, op: str, inputs: list[str], part: str, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        name = f"{self.name}/{part}"
        self.nodes.append(node_for(op, inputs, name, **attributes))
        return name

    def deliver(self, target: str) -> None:
        """Let the last step (or the only initializer) have the name `target`."""
        if self.nodes:
            self.nodes[-1].output[0] = target
        else:
            self.initializers[-1].name = target


def unfold_floats(name: str, record: Record, *, has_int4: bool = True) -> Unfolding:
    """Return what unfolds to the float tensor `name`, bit for bit `decode_record(record)`."""
    unfolding = Unfolding(name, has_int4=has_int4)
    _floats(unfolding, record)
    unfolding.deliver(name)
    return unfolding


def unfold_codes(name: str, record: Record, form: IntegerForm, *, has_int4: bool = True) -> Unfolding:
    """Return what unfolds to `name/codes`, `name/scale`, `name/zero_point`: the parts of `form`, made from `record`."""
    unfolding = Unfolding(name, has_int4=has_int4)
    unfolding.data("scale", np.asarray(form.scale))
    unfolding.data("zero_point", np.asarray(form.zero_point))
    factor, axis, record = (
        (record.factor, record.axis, record.values) if isinstance(record, ScaledRecord) else (None, 0, record)
    )
    support, values = (record.support, record.values) if isinstance(record, SparseRecord) else (None, record)
    if isinstance(values, CodebookRecord) and isinstance(values.centroids, AffineRecord):
        zero_point = int(np.ravel(form.zero_point)[0])
        shift = zero_point - int(np.ravel(values.centroids.zero_point)[0])
        table = (np.ravel(values.centroids.codes) + shift).astype(np.int8)
        indices, table = _with_zero(values.indices, table, support, zero=zero_point)
        source = _indices(unfolding, indices, n_entries=len(table))
        if factor is not None and bool((factor < 0).any()):
            # Channels with a negative factor look into a second half of the table, mirrored about the zero point.
            offsets = np.where(factor < 0, len(table), 0).astype(np.int32)
            shaped = offsets.reshape([-1 if i == axis else 1 for i in range(form.codes.ndim)])
            source = unfolding.step("Add", [source, unfolding.data("offsets", shaped)], "indices/mirrored")
            table = np.concatenate([table, (2 * zero_point - table.astype(np.int32)).astype(np.int8)])
        unfolding.step("Gather", [unfolding.data("table", table), source], "codes", axis=0)
    elif has_int4 and INT4[0] <= form.codes.min(initial=0) and form.codes.max(initial=0) <= INT4[1]:
        unfolding.step(
            "Cast", [unfolding.packed("codes/int4", form.codes, TensorProto.INT4)], "codes", to=TensorProto.INT8
        )
    else:
        unfolding.data("codes", form.codes)
    unfolding.deliver(f"{name}/codes")
    return unfolding


def _floats(unfolding: Unfolding, record: Record) -> str:
    match record:
        case ScaledRecord(values, factor, axis) if _is_foldable(values):
            shape = [-1 if i == axis else 1 for i in range(len(shape_of_record(values)))]
            factors = unfolding.data("factor", factor.reshape(shape).astype(np.float32))
            return unfolding.step("Mul", [_floats(unfolding, values), factors], "scaled")
        case CodebookRecord(indices, centroids):
            return _gather(unfolding, indices, decode_record(centroids))
        case SparseRecord(support, CodebookRecord(indices, centroids)):
            return _gather(unfolding, *_with_zero(indices, decode_record(centroids), support, zero=0.0))
        case SparseRecord(support, AffineRecord() as values) if _is_foldable(values):
            return _rescale(unfolding, values, support)
        case AffineRecord() if _is_foldable(record):
            return _rescale(unfolding, record, None)
        case _:
            return _plain(unfolding, record)


def _plain(unfolding: Unfolding, record: Record) -> str:
    values = decode_record(record)
    if not isinstance(record, ScaledRecord) and holds_half(record):
        halves = unfolding.data("half", values.astype(np.float16))  # exact: they were float16
        return unfolding.step("Cast", [halves], "float", to=TensorProto.FLOAT)
    return unfolding.data("", values)


def _is_foldable(record: Record) -> bool:
    """Return whether ONNX nodes unfold `record`: all but dense floats, and groups that do not divide a row."""
    match record:
        case AffineRecord(codes=codes, granularity=("group", int(size))):
            return codes.ndim >= 2 and codes.size > 0 and row_shape(codes.shape)[1] % size == 0
        case SparseRecord(_, values):
            return _is_foldable(values)
        case DenseRecord():
            return False
        case _:
            return True


def _gather(unfolding: Unfolding, indices: Array, table: Array) -> str:
    source = _indices(unfolding, indices, n_entries=len(table))
    return unfolding.step("Gather", [unfolding.data("table", table), source], "values", axis=0)


def _with_zero(indices: Array, table: Array, support: Array | None, *, zero: float) -> tuple[Array, Array]:
    if support is None:
        return indices, table
    widened = np.where(support, indices.astype(np.int32), len(table))
    return widened, np.append(table, table.dtype.type(zero))


def _indices(unfolding: Unfolding, indices: Array, *, n_entries: int) -> str:
    """Write indices in 1, 2, 4, 8 or 16 bits, whatever is enough, and return the name of their int32 form."""
    if n_entries > LARGEST_UINT16 + 1:  # 65,536 centroids, and the zero
        return unfolding.data("indices", indices.astype(np.int32))
    if indices.size and n_entries <= 1 << WIDEST_BITS:
        return _bits(unfolding, indices, width=1 if n_entries <= 2 else WIDEST_BITS)
    if n_entries <= LARGEST_UINT4 + 1:
        stored = unfolding.packed("indices", indices, TensorProto.UINT4)
    else:
        stored = unfolding.data("indices", indices.astype(np.uint8 if n_entries <= 256 else np.uint16))
    return unfolding.step("Cast", [stored], "indices/int32", to=TensorProto.INT32)


def _bits(unfolding: Unfolding, indices: Array, *, width: int) -> str:
    """Write indices below 2^width (1 or 2 bits), as many as fit a byte, lowest bits first."""
    n_in_byte = 8 // width
    offsets = np.arange(n_in_byte, dtype=np.uint8) * np.uint8(width)
    padded = np.zeros((-(-indices.size // n_in_byte), n_in_byte), dtype=np.uint8)
    padded.reshape(-1)[: indices.size] = indices.reshape(-1)
    packed = unfolding.data("indices/packed", (padded << offsets).sum(axis=1, dtype=np.uint8)[:, None])
    # There is no shorter way before opset 18: push what lies above out on the left, then what lies below on the right.
    above = unfolding.data("indices/above", (8 - width - offsets).astype(np.uint8))
    shifted = unfolding.step("BitShift", [packed, above], "indices/shifted", direction="LEFT")
    below = unfolding.data("indices/below", np.full(n_in_byte, 8 - width, dtype=np.uint8))
    value = unfolding.step("BitShift", [shifted, below], "indices/single", direction="RIGHT")
    value = unfolding.step("Reshape", [value, unfolding.data("indices/flat", np.array([-1]))], "indices/row")
    ends = [unfolding.data(f"indices/{part}", np.array([n])) for part, n in (("first", 0), ("last", indices.size))]
    value = unfolding.step("Slice", [value, *ends], "indices/unpadded")
    shape = unfolding.data("indices/shape", np.array(indices.shape, dtype=np.int64))
    value = unfolding.step("Reshape", [value, shape], "indices/shaped")
    return unfolding.step("Cast", [value], "indices/int32", to=TensorProto.INT32)


def _rescale(unfolding: Unfolding, record: AffineRecord, support: Array | None) -> str:
    """Write codes with scale and zero point, as they are in the record, and the arithmetic of `decode_record`."""
    codes = record.codes
    zero_point, scale = (_spread(array, record) for array in (record.zero_point, record.scale))
    shape = codes.shape
    if record.granularity[0] == "group":
        size = int(record.granularity[1]) if len(record.granularity) == 2 else 1
        codes = codes.reshape(shape[0], -1, size)
        support = support if support is None else support.reshape(codes.shape)
    if support is not None:
        codes = np.where(support, codes, zero_point)
    value = unfolding.step("Cast", [_stored(unfolding, codes, record)], "codes/float", to=TensorProto.FLOAT)
    if record.zero_point.any():
        value = unfolding.step("Sub", [value, unfolding.data("zero_point", zero_point.astype(np.float32))], "centred")
    value = unfolding.step("Mul", [value, unfolding.data("scale", scale.astype(np.float32))], "values")
    if codes.shape != shape:
        value = unfolding.step("Reshape", [value, unfolding.data("shape", np.asarray(shape, dtype=np.int64))], "shaped")
    return value


def _spread(parameters: Array, record: AffineRecord) -> Array:
    match record.granularity:
        case ("channel", int(axis)):
            return parameters.reshape([-1 if i == axis else 1 for i in range(record.codes.ndim)])
        case ("group", int(_)):
            return parameters.reshape(record.codes.shape[0], -1, 1)
        case _:
            return parameters.reshape(())


def _stored(unfolding: Unfolding, codes: Array, record: AffineRecord) -> str:
    if record.n_bits <= 4:
        return unfolding.packed("codes", codes, TensorProto.INT4 if record.signed else TensorProto.UINT4)
    if record.n_bits <= 8:
        return unfolding.data("codes", codes.astype(np.int8 if record.signed else np.uint8))
    return unfolding.data("codes", codes.astype(np.int16 if record.signed else np.uint16))
