"""This file turns the header's JSON into typed plans, and checks every promise before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, assert_never, cast

import numpy as np

from dwindle.container.limits import MAX_ALPHABET, MAX_NAME_BYTES, MAX_RANK, Limits
from dwindle.container.records import row_shape
from dwindle.container.values import DTYPES
from dwindle.errors import HeaderError

Shape = tuple[int, ...]
Granularity = tuple[str] | tuple[str, int]


class StreamPlan(NamedTuple):
    """Which coder reads the next `n_bytes` of the streams section."""

    coder: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class DensePlan:
    """Plain numbers."""

    shape: Shape
    dtype: str
    values: StreamPlan


@dataclass(frozen=True, slots=True)
class HalfPlan:
    """float16 numbers that decode to float32."""

    shape: Shape
    values: StreamPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class AffinePlan:
    """Integer codes with scales and zero points."""

    shape: Shape
    n_bits: int
    signed: bool
    granularity: Granularity
    codes: StreamPlan
    scale: StreamPlan
    zero_point: StreamPlan

    @property
    def n_scales(self) -> int:
        """How many scales there are."""
        return n_scales(self.shape, self.granularity)


@dataclass(frozen=True, slots=True)
class CodebookPlan:
    """Indices into centroids."""

    shape: Shape
    indices: StreamPlan
    centroids: DensePlan | HalfPlan | AffinePlan


@dataclass(frozen=True, slots=True)
class SparsePlan:
    """`n_kept` values inside a support."""

    shape: Shape
    n_kept: int
    support: StreamPlan
    values: DensePlan | HalfPlan | AffinePlan | CodebookPlan


@dataclass(frozen=True, slots=True)
class ScaledPlan:
    """Values with one factor for each index along `axis`."""

    shape: Shape
    axis: int
    values: HalfPlan | AffinePlan | CodebookPlan | SparsePlan
    factor: StreamPlan


Plan = DensePlan | HalfPlan | AffinePlan | CodebookPlan | SparsePlan | ScaledPlan

STREAMS: Final = {
    "dense": ("values",),
    "half": ("values",),
    "affine": ("codes", "scale", "zero_point"),
    "codebook": ("indices",),
    "sparse": ("support",),
    "scaled": ("factor",),
}
_FIELDS: Final = {
    "dense": {"dtype"},
    "half": set[str](),
    "affine": {"n_bits", "signed", "granularity"},
    "codebook": {"size", "centroids"},
    "sparse": {"n_kept", "record"},
    "scaled": {"axis", "record"},
}


def parse_tensors(tensors: object, limits: Limits) -> dict[str, Plan]:
    """Return the plan of each tensor, in the order of the file.

    Raises:
        HeaderError: anything is malformed, contradicts itself, or exceeds `limits`.
    """
    if not isinstance(tensors, list) or len(cast("list[Any]", tensors)) > limits.n_tensors:
        raise HeaderError(f"the header must list at most {limits.n_tensors} tensors")
    plans: dict[str, Plan] = {}
    n_elements, n_bytes = 0, 0
    for entry in cast("list[Any]", tensors):
        fields = _fields(entry, {"name", "shape", "record"}, "a tensor")
        name = parse_name(fields["name"])
        if plans and name <= next(reversed(plans)):
            raise HeaderError(f"tensor {name!r} does not stand in order of names, or stands twice")
        try:
            shape = _shape(fields["shape"], limits)
            plans[name] = _parse(fields["record"], shape, tuple(STREAMS))
        except HeaderError as error:
            raise HeaderError(f"tensor {name!r}: {error}") from error
        n_elements += n_elements_of(plans[name])
        n_bytes += n_bytes_of(plans[name])
        if n_elements > limits.n_elements:
            raise HeaderError(
                f"the header promises more than {limits.n_elements} numbers (up to tensor {name!r}); "
                "pass larger limits if you trust this file"
            )
        if n_bytes > limits.decoded_bytes:
            raise HeaderError(
                f"the header promises more than {limits.decoded_bytes} bytes of decoded tensors (up to {name!r}); "
                "pass larger limits if you trust this file"
            )
    return plans


def parse_name(name: object) -> str:
    """Return a tensor's name.

    Raises:
        HeaderError: it is not a text of 1 to 1024 bytes in UTF-8.
    """
    try:
        n_bytes = len(name.encode("utf-8")) if isinstance(name, str) else 0
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell and nothing could print
        n_bytes = 0
    if not isinstance(name, str) or not 0 < n_bytes <= MAX_NAME_BYTES:
        raise HeaderError(f"a name must be a text of 1 to {MAX_NAME_BYTES} bytes in UTF-8, not {ascii(name)[:60]}")
    return name


def n_scales(shape: Shape, granularity: Granularity) -> int:
    """Return how many scales a tensor of `shape` has."""
    match granularity:
        case ("channel", int(axis)):
            return shape[axis]
        case ("group", int(size)):
            n_rows, n_columns = row_shape(shape)
            return n_rows * math.ceil(n_columns / size)
        case _:
            return 1


def n_elements_of(plan: Plan) -> int:
    """Return how many numbers the arrays of `plan` hold once decoded."""
    n_weights = math.prod(plan.shape)
    match plan:
        case DensePlan() | HalfPlan():
            return n_weights
        case AffinePlan():
            return n_weights + 2 * plan.n_scales
        case CodebookPlan(centroids=centroids):
            return n_weights + n_elements_of(centroids)
        case SparsePlan(values=values):
            return n_weights + n_elements_of(values)
        case ScaledPlan(axis=axis, values=values):
            return plan.shape[axis] + n_elements_of(values)
        case _:
            assert_never(plan)


def version_of(plans: Iterable[Plan]) -> int:
    """Return the version of the format that a file of these tensors has: the first that knows all of them."""
    return 2 if any(_is_half(plan) for plan in plans) else 1


def _is_half(plan: Plan) -> bool:
    match plan:
        case HalfPlan():
            return True
        case CodebookPlan(centroids=inner) | SparsePlan(values=inner) | ScaledPlan(values=inner):
            return _is_half(inner)
        case DensePlan() | AffinePlan():
            return False
        case _:
            assert_never(plan)


def dtype_of(plan: Plan) -> np.dtype[Any]:
    """Return the type of the array that `plan` decodes to."""
    match plan:
        case DensePlan(dtype=dtype):
            return np.dtype(dtype)
        case HalfPlan() | AffinePlan():
            return np.dtype(np.float32)
        case CodebookPlan(centroids=inner) | SparsePlan(values=inner):
            return dtype_of(inner)
        case ScaledPlan(values=inner):
            return np.result_type(dtype_of(inner), np.float32)
        case _:
            assert_never(plan)


def n_bytes_of(plan: Plan) -> int:
    """Return the bytes of the array that `plan` decodes to, and of the support, scales and other parts behind it."""
    return math.prod(plan.shape) * dtype_of(plan).itemsize + _n_side_bytes(plan)


def _n_side_bytes(plan: Plan) -> int:
    match plan:
        case DensePlan() | HalfPlan():
            return 0
        case AffinePlan():
            return 8 * plan.n_scales
        case CodebookPlan(centroids=centroids):
            return n_bytes_of(centroids)
        case SparsePlan(values=values):
            return math.prod(plan.shape) + _n_side_bytes(values)
        case ScaledPlan(axis=axis, values=values):
            return 4 * plan.shape[axis] + _n_side_bytes(values)
        case _:
            assert_never(plan)


def streams_of(plan: Plan) -> Iterator[StreamPlan]:
    """Yield the streams of `plan` in the order in which they lie in the file."""
    match plan:
        case DensePlan(values=values) | HalfPlan(values=values):
            yield values
        case AffinePlan():
            yield from (plan.codes, plan.scale, plan.zero_point)
        case CodebookPlan(indices=indices, centroids=centroids):
            yield indices
            yield from streams_of(centroids)
        case SparsePlan(support=support, values=values):
            yield support
            yield from streams_of(values)
        case ScaledPlan(values=values, factor=factor):
            yield from streams_of(values)
            yield factor
        case _:
            assert_never(plan)


def _parse(record: object, shape: Shape, allowed: tuple[str, ...]) -> Any:
    kind = cast("dict[str, Any]", record).get("kind") if isinstance(record, dict) else None
    if not isinstance(kind, str) or kind not in allowed:
        raise HeaderError(f"a record of kind {str(kind)[:60]!r} where one of {', '.join(allowed)} can stand")
    fields = _fields(record, {"kind", *STREAMS[kind], *_FIELDS[kind]}, f"a {kind} record")
    streams = [_stream(fields[name]) for name in STREAMS[kind]]
    match kind:
        case "dense":
            return DensePlan(shape, _dtype(fields["dtype"]), streams[0])
        case "half":
            return HalfPlan(shape, streams[0])
        case "affine":
            return _affine(fields, shape, streams)
        case "codebook":
            size = _integer(fields["size"], 0, MAX_ALPHABET, "a codebook's size")
            centroids = _parse(fields["centroids"], (size,), ("dense", "half", "affine"))
            if isinstance(centroids, AffinePlan) and centroids.granularity != ("tensor",):
                raise HeaderError("centroids share one scale")
            return CodebookPlan(shape, streams[0], centroids)
        case "sparse":
            n_kept = _integer(fields["n_kept"], 0, math.prod(shape), "n_kept")
            inner = _parse(fields["record"], shape, ("dense", "half", "affine", "codebook"))
            return SparsePlan(shape, n_kept, streams[0], inner)
        case _:
            axis = _integer(fields["axis"], 0, len(shape) - 1, "axis")
            inner = _parse(fields["record"], shape, ("half", "affine", "codebook", "sparse"))
            return ScaledPlan(shape, axis, inner, streams[0])


def _affine(fields: dict[str, Any], shape: Shape, streams: list[StreamPlan]) -> AffinePlan:
    codes, scale, zero_point = streams
    if not isinstance(fields["signed"], bool):
        raise HeaderError("'signed' must be true or false")
    return AffinePlan(
        shape=shape,
        n_bits=_integer(fields["n_bits"], 2, 16, "n_bits"),
        signed=fields["signed"],
        granularity=_granularity(fields["granularity"], shape),
        codes=codes,
        scale=scale,
        zero_point=zero_point,
    )


def _granularity(value: object, shape: Shape) -> Granularity:
    match value:
        case ["tensor"]:
            return ("tensor",)
        case ["channel", axis]:
            return ("channel", _integer(axis, 0, len(shape) - 1, "the axis of a granularity"))
        case ["group", size]:
            return ("group", _integer(size, 1, 1 << 30, "the size of a group"))
        case _:
            raise HeaderError(f"granularity {str(value)[:60]} is unknown")


def _dtype(value: object) -> str:
    if not isinstance(value, str) or value not in DTYPES:
        raise HeaderError(f"numbers of type {str(value)[:60]!r} are unknown")
    return value


def _shape(value: object, limits: Limits) -> Shape:
    if not isinstance(value, list) or len(cast("list[Any]", value)) > MAX_RANK:
        raise HeaderError(f"a shape must list at most {MAX_RANK} lengths")
    shape = tuple(_integer(length, 0, limits.n_elements, "a length") for length in cast("list[Any]", value))
    if math.prod(max(length, 1) for length in shape) > limits.n_elements:
        raise HeaderError(f"shape {shape} exceeds the limit of {limits.n_elements} numbers")
    return shape


def _stream(value: object) -> StreamPlan:
    if not isinstance(value, list) or len(cast("list[Any]", value)) != 2:
        raise HeaderError("a stream must be [coder, length in bytes]")
    coder, n_bytes = cast("list[Any]", value)
    return StreamPlan(_integer(coder, 0, 255, "a coder"), _integer(n_bytes, 0, 1 << 40, "a stream's length"))


def _integer(value: object, low: int, high: int, what: str) -> int:  # ruff: ignore[too-many-positional-arguments] (a check reads best in one line)
    if type(value) is not int or not low <= value <= high:
        raise HeaderError(f"{what} must be a whole number in [{low}, {high}], not {str(value)[:60]}")
    return value


def _fields(value: object, names: set[str], what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(cast("dict[str, Any]", value)) != names:
        raise HeaderError(f"{what} must have exactly the keys {', '.join(sorted(names))}")
    return cast("dict[str, Any]", value)
