"""This file shows where the bytes went: bars, the table of tensors, and weight histograms with their centroids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from dwindle.report.facts import Data, Facts, number, numbers, table, text
from dwindle.report.figures import Axis, Chart, Legend, Shape, rules, steps
from dwindle.report.words import DASH, fixed, human_bytes, metric_value, shape_words, shortened, significant

_N_BARS: Final = 14
_BAR_NAME: Final = 30
_CHART_NAME: Final = 36
_N_SEGMENTS: Final = 40
_N_HISTOGRAMS: Final = 6
_N_TABLE_ROWS: Final = 1_000
_LOG_SCALE_FROM: Final = 30.0
"""A histogram whose highest bin is this many times its median bin is drawn on a logarithmic axis."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A tensor's bytes before and after, in per cent of the largest tensor's; the rest together has no bar."""

    name: str
    full_name: str
    raw: float
    encoded: float
    words: str
    ratio: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a strip, in per cent of that strip; `tone` alternates so that neighbours are told apart."""

    name: str
    width: float
    tone: int
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Strips:
    """All tensors end to end: raw, encoded to the same scale, and encoded again, magnified."""

    raw: tuple[Segment, ...]
    encoded: tuple[Segment, ...]
    encoded_width: float
    raw_words: str
    encoded_words: str


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One line of the table of tensors, as text."""

    name: str
    shape: str
    structure: str
    cells: tuple[str, ...]


def bars_of(facts: Facts) -> list[Bar]:
    """Return a bar for each of the largest tensors; the rest, if any, share the last one."""
    sized = _sized(facts)
    if not sized:
        return []
    sized.sort(key=lambda t: -t[1])
    n_bars = len(sized) if len(sized) <= _N_BARS + 1 else _N_BARS
    shown, rest = sized[:n_bars], sized[n_bars:]
    widest = max(max(raw, encoded) for _, raw, encoded in shown) or 1.0
    bars = [_bar(name, raw, encoded, widest=widest) for name, raw, encoded in shown]
    if rest:
        others = (f"{len(rest):,} smaller tensors", sum(t[1] for t in rest), sum(t[2] for t in rest))
        bars.append(replace(_bar(*others, widest=widest), raw=0.0, encoded=0.0))
    return bars


def strips_of(facts: Facts) -> Strips | None:
    """Return the strips in the network's order of tensors, or None where no tensor has both sizes."""
    sized = _sized(facts)
    total_raw, total_encoded = sum(t[1] for t in sized), sum(t[2] for t in sized)
    if total_raw <= 0 or total_encoded <= 0:
        return None
    scale = max(total_raw, total_encoded)
    return Strips(
        raw=_segments([(t[0], t[1]) for t in sized], scale),
        encoded=_segments([(t[0], t[2]) for t in sized], total_encoded),
        encoded_width=100 * total_encoded / scale,
        raw_words=human_bytes(total_raw),
        encoded_words=human_bytes(total_encoded),
    )


def overhead_words(facts: Facts) -> str:
    """Return what else the compressed .dwn file holds besides tensors, if the ledger allows to tell."""
    files = [a for a in facts.artifacts if text(a, "role") == "compressed" and text(a, "format") == "dwn"]
    encoded = [number(t, "encoded_bytes") for t in facts.tensors]
    n_bytes = number(files[-1], "size_bytes") if files else None
    if n_bytes is None or not encoded or None in encoded:
        return ""
    rest = n_bytes - sum(value for value in encoded if value is not None)
    if rest < 0:
        return ""
    return f"The file is {human_bytes(n_bytes)}: {human_bytes(rest)} of it is not tensors (graph, header, checksums)."


def table_of(facts: Facts) -> tuple[list[TensorRow], int]:
    """Return the table of tensors in the ledger's order, and how many tensors did not fit."""
    rows = [_tensor_row(tensor) for tensor in facts.tensors[:_N_TABLE_ROWS]]
    return rows, max(0, len(facts.tensors) - _N_TABLE_ROWS)


def histograms_of(facts: Facts) -> list[Chart]:
    """Return the weight histograms of the largest tensors that have one."""
    with_histogram = [t for t in facts.tensors if _histogram(t) is not None]
    with_histogram.sort(key=lambda t: -(number(t, "n_weights") or 0))
    return [_histogram_chart(tensor) for tensor in with_histogram[:_N_HISTOGRAMS]]


def _sized(facts: Facts) -> list[tuple[str, float, float]]:
    found = ((text(t, "name"), number(t, "raw_bytes"), number(t, "encoded_bytes")) for t in facts.tensors)
    return [(name, raw, enc) for name, raw, enc in found if raw is not None and enc is not None and min(raw, enc) >= 0]


def _bar(name: str, raw: float, encoded: float, *, widest: float) -> Bar:
    ratio = metric_value(raw / encoded, "x") if encoded else ""
    words = f"{human_bytes(raw)} → {human_bytes(encoded)}"
    return Bar(shortened(name, _BAR_NAME), name, 100 * raw / widest, 100 * encoded / widest, words, ratio)


def _segments(parts: Sequence[tuple[str, float]], total: float) -> tuple[Segment, ...]:
    """Merge runs of slivers, so that hundreds of tensors give a strip of a few dozen stretches."""
    merged: list[tuple[list[str], float]] = []
    for name, size in parts:
        is_sliver = size < total / _N_SEGMENTS
        if merged and is_sliver and merged[-1][1] < total / _N_SEGMENTS:
            names, before = merged[-1]
            merged[-1] = ([*names, name], before + size)
        else:
            merged.append(([name], size))
    return tuple(
        Segment(
            names[0] if len(names) == 1 else f"{len(names)} tensors",
            100 * size / total,
            i % 2,
            f"{names[0] if len(names) == 1 else f'{names[0]} to {names[-1]}'}: {human_bytes(size)}",
        )
        for i, (names, size) in enumerate(merged)
        if size > 0
    )


def _tensor_row(tensor: Data) -> TensorRow:
    n_weights, encoded = number(tensor, "n_weights"), number(tensor, "encoded_bytes")
    sparsity, n_bits = number(tensor, "sparsity"), number(tensor, "n_bits")
    shape = tensor.get("shape")
    cells = (
        DASH if sparsity is None else f"{fixed(100 * sparsity, 1)} %",
        DASH if n_bits is None else f"{n_bits:g}",
        significant(8 * encoded / n_weights) if n_weights and encoded is not None else DASH,
        *(_exact(tensor, key) for key in ("raw_bytes", "encoded_bytes", "runtime_bytes")),
    )
    written = shape_words(shape)
    return TensorRow(text(tensor, "name"), written or "scalar", text(tensor, "structure"), cells)


def _exact(tensor: Data, key: str) -> str:
    value = number(tensor, key)
    return DASH if value is None else f"{value:,.0f}"


def _histogram(tensor: Data) -> tuple[list[float], list[float]] | None:
    histogram = table(tensor, "histogram")
    edges, counts = numbers(histogram, "edges"), numbers(histogram, "counts")
    is_whole = len(edges) == len(counts) + 1 >= 2 and edges == sorted(edges) and edges[0] < edges[-1]
    return (edges, counts) if is_whole and max(counts) > 0 and min(counts) >= 0 else None


def _histogram_chart(tensor: Data) -> Chart:
    edges, counts = _histogram(tensor) or ([0.0, 1.0], [1.0])
    centroids = numbers(tensor, "centroids")
    x_axis = Axis(edges[0], edges[-1])
    inside = [c for c in centroids if edges[0] <= c <= edges[-1]]
    is_log = _spans_magnitudes(counts)
    heights = [math.log2(1 + count) for count in counts] if is_log else counts  # log2(1 + 0) = 0, log2(1 + 1) = 1
    shapes = [Shape("first", steps(edges, heights, axes=(x_axis, Axis(0, 1.12 * max(heights)))))]
    if inside:
        shapes += [Shape("centroid", rules(inside, x_axis, top=6)), Shape("centroid-head", _heads(inside, x_axis))]
    name = text(tensor, "name")
    n_centroids = f"{len(centroids):,} centroid{'' if len(centroids) == 1 else 's'}"
    return Chart(
        title=shortened(name, _CHART_NAME),
        description=f"Weights of {name} from {edges[0]:g} to {edges[-1]:g}; {n_centroids} marked",
        shapes=tuple(shapes),
        x_ticks=x_axis.ticks(4),
        legend=(Legend("centroid", n_centroids),) if inside else (),
        note=_counted_words(tensor, sum(counts)) + (", on a log scale" if is_log else ""),
    )


def _spans_magnitudes(counts: Sequence[float]) -> bool:
    filled = sorted(count for count in counts if count > 0)
    return filled[-1] > _LOG_SCALE_FROM * filled[len(filled) // 2]


def _counted_words(tensor: Data, n_counted: float) -> str:
    n_weights = number(tensor, "n_weights")
    of_all = f" of {n_weights:,}" if n_weights is not None and n_weights != n_counted else ""
    return f"{n_counted:,.0f}{of_all} weights"


def _heads(values: Sequence[float], x_axis: Axis) -> str:
    return "".join(f"M{x_axis.at(value):.2f} 6h0" for value in values)
