"""This file runs a file that was compiled for one batch size on batches of any multiple of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import starmap

import numpy as np

from dwindle.errors import NetworkError
from dwindle.runtimes.given_inputs import fits, require_inputs
from dwindle.runtimes.protocol import Array, InputSpec


def fixed_batch(specs: Sequence[InputSpec]) -> int | None:
    """Return the number of examples that a file fixes; None where it takes any."""
    fixed = [spec.shape[0] for spec in specs if spec.shape]
    return next((size for size in fixed if isinstance(size, int)), None)


def run_in_parts(
    run: Callable[..., tuple[Array, ...]], inputs: Sequence[Array], specs: Sequence[InputSpec]
) -> tuple[Array, ...]:
    """Return the answers of `run` to `inputs`, each (batch, ...), given in parts of the batch size that `specs` fix.

    Raises:
        NetworkError: an input has another shape or dtype than the file takes, there is one too many or too few, or the
            answers to parts cannot be put together.
    """
    require_inputs(inputs, specs, in_parts=True)
    size = fixed_batch(specs)
    if size is None or all(starmap(fits, zip(inputs, specs, strict=True))):
        return run(*inputs)
    counts = [len(array) if array.ndim else 1 for array in inputs]
    if len(set(counts)) > 1:
        raise NetworkError(f"the inputs hold {', '.join(map(str, counts))} examples; give as many of each")
    return joined([run(*(array[i : i + size] for array in inputs)) for i in range(0, counts[0], size)])


def joined(parts: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
    """Return the answers of several calls as those of one.

    Raises:
        NetworkError: an output has no batch.
    """
    for place, output in enumerate(parts[0]):
        if not output.ndim:
            raise NetworkError(
                f"output {place} is one number for a whole batch, so answers to {len(parts)} batches are no answer to "
                "all examples; give no more than the file takes in one call"
            )
    return tuple(np.concatenate(outputs) for outputs in zip(*parts, strict=True))
