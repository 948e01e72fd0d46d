"""This file compares the inputs of a call with what the file says that it takes."""

from __future__ import annotations

from collections.abc import Sequence

from dwindle.errors import NetworkError
from dwindle.runtimes.protocol import Array, InputSpec


def require_inputs(inputs: Sequence[Array], specs: Sequence[InputSpec], *, in_parts: bool = False) -> None:
    """Check the number of `inputs`, and the shape and type of each.

    Args:
        inputs: of one call, each (batch, ...).
        specs: what the file says about them.
        in_parts: where the file fixes the batch, a multiple of it will do.

    Raises:
        NetworkError: an input has another shape or dtype than the file takes, or there is one too many or too few.
    """
    if len(inputs) != len(specs):
        raise NetworkError(f"the file takes {len(specs)} inputs {[spec.name for spec in specs]}, got {len(inputs)}")
    for spec, array in zip(specs, inputs, strict=True):
        is_of_type = spec.dtype is None or spec.dtype == array.dtype
        if not (is_of_type and (fits(array, spec) or (in_parts and _is_multiple(array, spec)))):
            more = " or a multiple of its batch" if in_parts else ""
            raise NetworkError(
                f"input {spec.name!r} must be {spec.dtype or spec.type_name} of shape {spec.shape}{more}, "
                f"got {array.dtype} of shape {array.shape}"
            )


def fits(array: Array, spec: InputSpec) -> bool:
    """Return whether `array` has every size that `spec` fixes."""
    return _has_sizes(array.shape, spec.shape)


def _is_multiple(array: Array, spec: InputSpec) -> bool:
    """Return whether `array` holds several batches of the size that `spec` fixes."""
    size, n = spec.shape[0] if spec.shape else None, array.shape[0] if array.ndim else 0
    is_multiple = isinstance(size, int) and n > size > 0 and n % size == 0
    return is_multiple and _has_sizes(array.shape[1:], spec.shape[1:])


def _has_sizes(shape: tuple[int, ...], wanted: tuple[int | str | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        not isinstance(want, int) or want == got for want, got in zip(wanted, shape, strict=True)
    )
