"""This file measures parity: how far an engine's outputs are from our own model's on the same inputs."""

from __future__ import annotations

import numpy as np

from dwindle.bench.measurement import PARITY, TOP1_AGREEMENT, Measurement, Subject, exactly
from dwindle.core.statistics import wilson_interval
from dwindle.errors import ExportError
from dwindle.runtimes.protocol import Array

Outputs = tuple[Array, ...]


def measure_parity(subject: Subject, reference: Outputs, outputs: Outputs, *, bound: float) -> tuple[Measurement, ...]:
    """Return the largest absolute difference and, for (n, classes) outputs, how often the largest logit agrees.

    Args:
        subject: the file and the engine.
        reference: our model's outputs.
        outputs: the engine's outputs.
        bound: difference that is still fine, as a fraction of the largest absolute reference value; stated in the
            conditions with whether it was kept.

    Raises:
        ExportError: outputs differ in number or shape, or are not finite.
    """
    _require_comparable(reference, outputs)
    difference = max(
        _largest(ours - theirs) for ours, theirs in zip(_float64(reference), _float64(outputs), strict=True)
    )
    allowed = bound * max(map(_largest, _float64(reference)))
    n = len(reference[0])
    parity = subject.measured(
        PARITY,
        exactly(difference, n=n),
        protocol="parity",
        conditions={"bound": allowed, "within_bound": "yes" if difference <= allowed else "no"},
    )
    if reference[0].ndim != 2 or reference[0].shape[1] < 2:
        return (parity,)
    n_agreeing = int((reference[0].argmax(axis=1) == outputs[0].argmax(axis=1)).sum())
    return (parity, subject.measured(TOP1_AGREEMENT, wilson_interval(n_agreeing, n), protocol="parity"))


def _require_comparable(reference: Outputs, outputs: Outputs) -> None:
    ours, theirs = [a.shape for a in reference], [a.shape for a in outputs]
    if ours != theirs or not ours or any(0 in shape for shape in ours):
        raise ExportError(
            f"the exported file answers with shapes {theirs}, our model with {ours}; export with an example of the "
            "shape that the network will see, and report this if it stays"
        )
    for name, arrays in (("our model", reference), ("the exported file", outputs)):
        if not all(np.isfinite(array).all() for array in arrays):
            raise ExportError(f"{name} answers the example with NaN or infinite values; give a real example batch")


def _float64(arrays: Outputs) -> list[Array]:
    return [array.astype(np.float64) for array in arrays]


def _largest(array: Array) -> float:
    return float(np.abs(array).max())
