"""This file asks whether an engine answers as ONNX Runtime does with the file of the same deployment.

That is parity, not accuracy: how good the answers are does not enter, only how many more or fewer of them are right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from dwindle.bench.measurement import PARITY, TOP1_AGREEMENT, TOP1_GAP, Measurement, Subject, exactly
from dwindle.bench.probes.accuracy import Answers, Labels
from dwindle.bench.side_by_side import AnswersBeside, answers_beside
from dwindle.core.statistics import paired_drop_interval, wilson_interval
from dwindle.runtimes.protocol import Array

LARGEST_GAP: Final = 0.1
"""Percentage points of top-1 accuracy between an engine and the reference beyond which the engine is flagged."""
LARGEST_SHIFT: Final = 0.05
"""Where no targets tell the accuracy: the same of the largest difference, as a share of the largest answer. More than
two engines differ by that multiply the same codes, whose values fall to one of two codes on an edge."""
PROTOCOL: Final = "parity"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answered:
    """What a file answered.

    Attributes:
        name: of the file, for people.
        outputs: of all examples.
        answers: scored; None without targets.
    """

    name: str
    subject: Subject
    outputs: tuple[Array, ...]
    answers: Answers | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parity:
    """How near an engine's answers are to the reference.

    Attributes:
        reference: name of the file that ONNX Runtime ran; empty where none was compared.
        beside: largest difference and share of equal answers; None without a reference.
        gap: top-1 accuracy of the reference minus that of this file, in points; None without targets.
        measurements: the same figures as measurements.
    """

    reference: str = ""
    beside: AnswersBeside | None = None
    gap: Measurement | None = None
    measurements: tuple[Measurement, ...] = ()

    @property
    def is_flagged(self) -> bool:
        """Whether the engine answers otherwise than it may."""
        return bool(self.flag)

    @property
    def flag(self) -> str:
        """How the engine answers otherwise than it may, in words; empty where it does not, or where nothing tells."""
        if self.gap is not None:
            if abs(self.gap.value) <= LARGEST_GAP + 1e-9:  # 500 of 1,000 less 499 is a little more
                return ""
            side = "below" if self.gap.value > 0 else "above"
            far = f"{abs(self.gap.value):.2f} points {side} that of {self.reference} on onnxruntime"
            return f"its top-1 accuracy is {far} (n = {self.gap.n:,}; {LARGEST_GAP:g} points are allowed)"
        if self.beside is None or self.beside.largest is None:
            return ""
        largest, scale = self.beside.largest, self.beside.scale or 0.0
        if largest <= LARGEST_SHIFT * scale:
            return ""
        far = f"{largest:.3g} from those of {self.reference} on onnxruntime, whose largest is {scale:.3g}"
        return f"its answers lie up to {far} ({LARGEST_SHIFT:.0%} of it are allowed where no targets tell the accuracy)"

    @property
    def remark(self) -> str:
        """Why there are no figures; empty where there are."""
        if self.beside is None:
            return "onnxruntime answered no .onnx or .dwn file of the same name; name it, too"
        return self.beside.remark


def measure_engine_parity(file: Answered, reference: Answered | None) -> Parity:
    """Return how near `file` is to `reference`, which answered the same examples."""
    if reference is None:
        return Parity()
    beside = answers_beside(reference.outputs, file.outputs)
    conditions: dict[str, str | float] = {"reference": reference.subject.artifact}
    n = len(file.outputs[0]) if file.outputs and np.ndim(file.outputs[0]) else 1
    found: list[Measurement] = []
    if beside.largest is not None:
        told = {**conditions, "largest_answer": beside.scale or 0.0}
        found.append(file.subject.measured(PARITY, exactly(beside.largest, n=n), protocol=PROTOCOL, conditions=told))
    if beside.agreement is not None:
        interval = wilson_interval(round(beside.agreement * n), n)
        found.append(file.subject.measured(TOP1_AGREEMENT, interval, protocol=PROTOCOL, conditions=conditions))
    gap = _gap(file, reference, conditions)
    found += [] if gap is None else [gap]
    return Parity(reference=reference.name, beside=beside, gap=gap, measurements=tuple(found))


def _gap(file: Answered, reference: Answered, conditions: dict[str, str | float]) -> Measurement | None:
    ours = None if file.answers is None else file.answers.labels
    theirs = None if reference.answers is None else reference.answers.labels
    if ours is None or theirs is None:
        return None
    interval = paired_drop_interval(_right(theirs), _right(ours))
    return file.subject.measured(TOP1_GAP, interval, protocol="paired", conditions=conditions)


def _right(labels: Labels) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return labels.truth == labels.answers
