"""This file runs a file that was compiled for one batch size on batches of any multiple of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dwindle.errors import NetworkError
from dwindle.runtimes.protocol import Array, InputSpec


def run_in_parts(
    run: Callable[..., tuple[Array, ...]], inputs: Sequence[Array], specs: Sequence[InputSpec]
) -> tuple[Array, ...]:
    """Return the answers of `run` to `inputs`, each (batch, ...), given in parts of the batch size that `specs` fix.

    Raises:
        NetworkError: an input has another shape or dtype than the file takes, or there is one too many or too few.
    """
    if len(inputs) != len(specs):
        names = [spec.name for spec in specs]
        raise NetworkError(f"the file takes {len(specs)} inputs {names}, got {len(inputs)}")
    for spec, array in zip(specs, inputs, strict=True):
        _require(spec, array)
    size = next((spec.shape[0] for spec in specs if spec.shape), None)
    is_as_told = all(array.shape == spec.shape for spec, array in zip(specs, inputs, strict=True))
    if not isinstance(size, int) or is_as_told:
        return run(*inputs)
    counts = [len(array) if array.ndim else 1 for array in inputs]
    if len(set(counts)) > 1:
        raise NetworkError(f"the inputs hold {', '.join(map(str, counts))} examples; give as many of each")
    n = counts[0]
    parts = [run(*(array[i : i + size] for array in inputs)) for i in range(0, n, size)]
    return tuple(np.concatenate(outputs) for outputs in zip(*parts, strict=True))


def _require(spec: InputSpec, array: Array) -> None:
    shape, size = spec.shape[1:], spec.shape[0] if spec.shape else None
    fits = array.ndim == len(spec.shape) and all(
        not isinstance(want, int) or want == got for want, got in zip(shape, array.shape[1:], strict=True)
    )
    whole = not isinstance(size, int) or (fits and len(array) > 0 and len(array) % size == 0)
    if not (fits and whole) or (spec.dtype is not None and array.dtype != spec.dtype):
        raise NetworkError(
            f"input {spec.name!r} must be {spec.dtype or spec.type_name} of shape {spec.shape} or a multiple of its "
            f"batch, got {array.dtype} of shape {array.shape}"
        )
