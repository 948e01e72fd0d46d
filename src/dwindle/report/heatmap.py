"""This file draws a heatmap of shares: a column for each network, a row for each class of operations, deeper for more.

After Figures 2 and 7 of Qin et al. (2018), which leave out what never takes a hundredth of the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from dwindle.report.figures import Chart, Label, Shape, Tick
from dwindle.report.words import fixed

N_LEVELS: Final = 10
"""Tones that the style sheet holds beside none."""
LEAST: Final = 0.01
_GAP: Final = 0.4
"""Between cells, in per cent of the axis."""

Shares = Mapping[str, Mapping[str, float]]


def heatmap(shares: Shares, *, title: str, order: Sequence[str] = (), least: float = LEAST) -> Chart:
    """Return the heatmap of `shares`; draw it with the size `heat`.

    Args:
        shares: network -> class -> share of the time of a call, in [0, 1].
        title: above the figure.
        order: of the classes, from the top; those it does not name follow.
        least: a class that reaches this share in no network is left out, and the note says so.

    >>> chart = heatmap({"net": {"convolution": 0.9, "pooling": 0.001}}, title="Shares")
    >>> [tick.label for tick in chart.y_ticks], chart.labels[0].words, chart.shapes[0].role
    (['convolution'], '90', 'cell share-9')
    """
    classes = _classes(shares, order, least)
    named = {group for row in shares.values() for group, share in row.items() if share > 0}
    left_out = sorted(named - set(classes))
    cells = list(_cells(shares, classes))
    return Chart(
        title=title,
        description=f"{title}: per cent of the time of a call; {len(shares)} networks, {len(classes)} classes",
        shapes=tuple(shape for shape, _ in cells),
        labels=tuple(label for _, label in cells),
        x_ticks=tuple(Tick(_middle(i, len(shares)), name) for i, name in enumerate(shares)),
        y_ticks=tuple(Tick(100 - _middle(i, len(classes)), group) for i, group in enumerate(classes)),
        note=f"Below {fixed(100 * least, 0)} % everywhere: {', '.join(left_out)}." if left_out else "",
    )


def _classes(shares: Shares, order: Sequence[str], least: float) -> list[str]:
    found = dict.fromkeys([*order, *(group for row in shares.values() for group in row)])
    return [group for group in found if any(_share(row, group) >= least for row in shares.values())]


def _cells(shares: Shares, classes: Sequence[str]) -> Iterator[tuple[Shape, Label]]:
    width, height = 100 / max(len(shares), 1), 100 / max(len(classes), 1)
    for column, (network, row) in enumerate(shares.items()):
        for line, group in enumerate(classes):
            share = _share(row, group)
            left, top = column * width + _GAP / 2, line * height + _GAP / 2
            path = f"M{left:.2f} {top:.2f}h{width - _GAP:.2f}v{height - _GAP:.2f}h-{width - _GAP:.2f}Z"
            words = f"{network}, {group}: {fixed(100 * share, 1)} %"
            level = math.ceil(N_LEVELS * share - 1e-9)
            label = Label(_middle(column, len(shares)), 100 - _middle(line, len(classes)), _figure(share))
            yield Shape(f"cell share-{level}", path, words), label


def _share(row: Mapping[str, float], group: str) -> float:
    """Return a share in [0, 1]; 0 where it is absent or no number."""
    share = row.get(group, 0.0)
    return min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0


def _figure(share: float) -> str:
    return "" if share == 0 else fixed(100 * share, 0 if share >= 0.095 else 1)


def _middle(place: int, n: int) -> float:
    return 100 * (place + 0.5) / n
