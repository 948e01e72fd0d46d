"""This file lets a file that was compiled for one batch size answer any number of examples, the last call filled up."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dwindle.runtimes.fixed_batch import fixed_batch, joined
from dwindle.runtimes.protocol import Array, Session


@dataclass(frozen=True, slots=True)
class EvenSession:
    """A session that answers in as many calls as it takes; only for answers: filling up costs time.

    The examples beyond the last one repeat it, and their answers are dropped.
    """

    session: Session

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for one batch of any size; every input is (batch, ...)."""
        size = fixed_batch(self.session.inputs)
        n = len(inputs[0]) if inputs and inputs[0].ndim else 0
        if size is None or n in {0, size} or any(array.shape[:1] != (n,) for array in inputs):
            return self.session.run(*inputs)
        return joined([self._part(inputs, start, size) for start in range(0, n, size)])

    def _part(self, inputs: tuple[Array, ...], start: int, size: int) -> tuple[Array, ...]:
        last = len(inputs[0]) - 1
        which = np.minimum(np.arange(start, start + size), last)
        outputs = self.session.run(*(array[which] for array in inputs))
        return tuple(output[: last + 1 - start] for output in outputs)


@dataclass(slots=True)
class RecordingSession:
    """A session that keeps what it answers; a file of a fixed batch takes any number of examples."""

    session: Session
    kept: list[tuple[Array, ...]] = field(default_factory=list[tuple[Array, ...]])

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for one batch of any size; every input is (batch, ...)."""
        self.kept.append(EvenSession(self.session).run(*inputs))
        return self.kept[-1]

    def outputs(self) -> tuple[Array, ...]:
        """Return all that was answered: every output is (examples, ...)."""
        return joined(self.kept)
