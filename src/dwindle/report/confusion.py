"""This file shows which classes are mistaken for which: a table for few classes, a picture and a list for many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Final

from dwindle.core.statistics import Interval
from dwindle.report.facts import Data, Facts, items
from dwindle.report.figures import Shape
from dwindle.report.weighed import Learned
from dwindle.report.words import MINUS, as_name, fixed

_MAX_TABLE: Final = 20
_MAX_PICTURE: Final = 200
_N_PAIRS: Final = 15
_N_LEVELS: Final = 6

Counts = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """A count, how strongly to tint it (0 to 100), whether it is right, and its change against the dense network."""

    count: int
    tint: int
    is_right: bool
    change: str


@dataclass(frozen=True, slots=True)
class ClassRow:
    """The examples of one class, and the share that was recognized."""

    name: str
    cells: tuple[Cell, ...]
    recall: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """What the template draws; `rows` for few classes, `shapes` for many; `pairs` are the most frequent mistakes.

    Attributes:
        role: whose answers these are.
        compares: the changes against the dense network are shown.
    """

    role: str
    class_names: tuple[str, ...]
    n_examples: int
    compares: bool
    rows: tuple[ClassRow, ...]
    shapes: tuple[Shape, ...]
    pairs: tuple[tuple[str, str, int], ...]


def confusion_of(facts: Facts) -> Confusion | None:
    """Return the compressed network's confusion (the dense one's where it is alone), or None."""
    matrices = {role: counts for role, data in facts.confusions.items() if (counts := _counts(data))}
    role = next((r for r in ("compressed", "dense") if r in matrices), None)
    if role is None:
        return None
    counts = matrices[role]
    names = _names(facts.confusions[role], len(counts))
    dense = matrices.get("dense") if role == "compressed" else None
    compares = dense is not None and len(dense) == len(counts)
    is_small = len(counts) <= _MAX_TABLE
    return Confusion(
        role=role,
        class_names=names,
        n_examples=sum(map(sum, counts)),
        compares=compares and is_small,
        rows=_rows(counts, names, dense if compares else None) if is_small else (),
        shapes=_picture(counts) if not is_small and len(counts) <= _MAX_PICTURE else (),
        pairs=_pairs(counts, names),
    )


def learned_of(facts: Facts, role: str) -> Learned | None:
    """Return what a network has learned of its classes; None where nobody counted, or there are no two of them.

    The interval is the normal one of a mean of independent shares.
    """
    classes = [(row[i], sum(row)) for i, row in enumerate(_counts(facts.confusions.get(role, {})) or ()) if sum(row)]
    if len(classes) < 2:
        return None
    recalls = [n_right / n for n_right, n in classes]
    mean = fmean(recalls)
    variance = sum(r * (1.0 - r) / n for r, (_, n) in zip(recalls, classes, strict=True)) / len(classes) ** 2
    half = NormalDist().inv_cdf(0.975) * math.sqrt(variance)
    n_examples = sum(n for _, n in classes)
    return Learned(recall=Interval(mean, mean - half, mean + half, n_examples), n_classes=len(classes))


def _counts(data: Data) -> Counts | None:
    """Return a square matrix of counts, or None where the ledger holds something else."""
    raw = items(data, "counts")
    if not raw or not all(isinstance(row, list | tuple) and len(row) == len(raw) for row in raw):
        return None
    if not all(isinstance(value, int) and value >= 0 for row in raw for value in row):
        return None
    return tuple(tuple(row) for row in raw)


def _names(data: Data, n_classes: int) -> tuple[str, ...]:
    names = [as_name(name) for name in items(data, "class_names")]
    return tuple(names) if len(names) == n_classes else tuple(f"class {i}" for i in range(n_classes))


def _rows(counts: Counts, names: Sequence[str], dense: Counts | None) -> tuple[ClassRow, ...]:
    rows: list[ClassRow] = []
    for i, (name, row) in enumerate(zip(names, counts, strict=True)):
        total = sum(row)
        cells = tuple(
            Cell(n, _tint(n, total, is_right=i == j), i == j, _change(n, dense[i][j]) if dense else "")
            for j, n in enumerate(row)
        )
        rows.append(ClassRow(name, cells, f"{fixed(100 * row[i] / total, 1)} %" if total else "no examples"))
    return tuple(rows)


def _tint(count: int, total: int, *, is_right: bool) -> int:
    """Mistakes are rare, so they are tinted by the square root of their share.

    Right answers skip the tints between 60 and 88 %, where neither dark nor light figures could be read.
    """
    share = count / total if total else 0.0
    if not is_right:
        return round(100 * share**0.5)
    return round(120 * share) if share < 0.5 else round(88 + 24 * (share - 0.5))


def _change(now: int, before: int) -> str:
    difference = now - before
    return "" if difference == 0 else f"{'+' if difference > 0 else MINUS}{abs(difference):,}"


def _pairs(counts: Counts, names: Sequence[str]) -> tuple[tuple[str, str, int], ...]:
    mistakes = [(n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if i != j and n > 0]
    mistakes.sort(key=lambda m: (-m[0], m[1], m[2]))
    return tuple((names[i], names[j], n) for n, i, j in mistakes[:_N_PAIRS])


def _picture(counts: Counts) -> tuple[Shape, ...]:
    """Return one path of squares for each strength of tint, right answers and mistakes apart."""
    side = 100 / len(counts)
    paths: dict[str, list[str]] = {}
    for i, row in enumerate(counts):
        total = sum(row)
        for j, n in enumerate(row):
            if n:
                share = n / total if i == j else (n / total) ** 0.5
                role = f"{'right' if i == j else 'wrong'} level-{min(_N_LEVELS, 1 + int(share * _N_LEVELS))}"
                square = f"M{j * side:.2f} {i * side:.2f}h{side:.2f}v{side:.2f}h-{side:.2f}z"
                paths.setdefault(role, []).append(square)
    return tuple(Shape(role, "".join(squares)) for role, squares in sorted(paths.items()))
