"""This file lets a file that was compiled for one batch size answer any number of examples, the last call filled up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dwindle.runtimes.protocol import Array, InputSpec, Session


def fixed_batch(specs: Sequence[InputSpec]) -> int | None:
    """Return the number of examples that a file fixes; None where it takes any."""
    fixed = [spec.shape[0] for spec in specs if spec.shape]
    return next((size for size in fixed if isinstance(size, int)), None)


@dataclass(frozen=True, slots=True)
class EvenSession:
    """A session that answers in as many calls as it takes; only for answers: filling up costs time.

    The examples beyond the last one repeat it, and their answers are dropped.
    """

    session: Session

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs in order."""
        return self.session.input_names

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What the file says about its inputs."""
        return self.session.inputs

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for one batch of any size; every input is (batch, ...)."""
        size = fixed_batch(self.session.inputs)
        n = len(inputs[0]) if inputs and inputs[0].ndim else 0
        if size is None or n in {0, size} or any(array.shape[:1] != (n,) for array in inputs):
            return self.session.run(*inputs)
        parts = [self._part(inputs, start, size) for start in range(0, n, size)]
        return tuple(np.concatenate(outputs) for outputs in zip(*parts, strict=True))

    def _part(self, inputs: tuple[Array, ...], start: int, size: int) -> tuple[Array, ...]:
        last = len(inputs[0]) - 1
        which = np.minimum(np.arange(start, start + size), last)
        outputs = self.session.run(*(array[which] for array in inputs))
        return tuple(output[: last + 1 - start] for output in outputs)
