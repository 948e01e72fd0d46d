"""This file fills the tables of a study: what the ledger holds beside what was published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dwindle.studies.results import Results
from dwindle.studies.study import Quantity, Study, Table

Unit = Literal["%", "points", "bytes", "x", "fraction", "epochs", ""]
"""Of a figure; "" counts or has none."""


@dataclass(frozen=True, kw_only=True)
class Heading:
    """What stands above a column.

    Attributes:
        digits: behind the decimal point of ours.
        published_digits: of the published figure.
        has_published: whether any row has a published figure in it.
    """

    title: str
    quantity: Quantity
    unit: Unit
    digits: int
    published_digits: int
    has_published: bool


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure of ours beside the published one; the unit and the digits are those of the heading.

    Attributes:
        value: ours; None where an outcome is missing.
        low: end of the 95 % interval; of exact figures the least over the seeds.
        high: likewise; the greatest.
        n_seeds: the fewest that an outcome of the cell has.
        n_examples: of the test split; 0 for figures that no test split is needed for.
        is_exact: whether each seed's figure is exact, so that [low, high] is their range.
        published: None where the paper has none.
        floor: what the dense network should have reached but did not, percent; None where it did.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n_seeds: int = 0
    n_examples: int = 0
    is_exact: bool = False
    published: float | None = None
    floor: float | None = None

    @property
    def is_below_floor(self) -> bool:
        """Whether the drop is taken against a dense network that is too poor for it to mean anything."""
        return self.floor is not None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row: what tells it apart (as in `FilledTable.row_titles`), and a cell for each heading."""

    names: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class FilledTable:
    """A table of a study with its figures.

    Attributes:
        row_titles: what the names of a row are: `network`, `data`, axes.
    """

    id: str
    title: str
    about: str
    published_about: str
    row_titles: tuple[str, ...]
    headings: tuple[Heading, ...]
    rows: tuple[Row, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing of it was run."""
        return all(cell.value is None for row in self.rows for cell in row.cells)

    @property
    def n_seeds(self) -> int:
        """How many seeds most was run with."""
        return max((cell.n_seeds for row in self.rows for cell in row.cells), default=0)


def fill(table: Table, study: Study, results: Results) -> FilledTable:
    """Return `table` with the figures of `results`; rows in the order of the study, those of the preset alone."""
    raise NotImplementedError
