"""This file models symbols by integer frequencies that sum to a power of two, and stores them in few bits.

The file holds the integers, and the model follows from them by integer arithmetic alone, so that every machine decodes
the same symbols. With K symbols in use, total 2^t and cumulative frequencies C_i, symbol i owns the interval
[floor(C_i * (2^24 - K) / 2^t) + i, floor(C_(i+1) * (2^24 - K) / 2^t) + i + 1) of [0, 2^24). This is what constriction's
`Categorical(..., perfect=False)` computes in float64; all its products stay below 2^53, so its floats are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from constriction import stream  # pyright: ignore[reportAttributeAccessIssue] (a native module without stubs)

from dwindle.container.bits import BitReader, BitWriter, golomb_lengths
from dwindle.container.window import Payload
from dwindle.errors import ContainerError

PRECISION: Final = 24
MAX_LOG_TOTAL: Final = 18
_TOTAL_BITS = 5
_ORDER_BITS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Frequencies:
    """Symbols in use and how often they occur.

    Attributes:
        used: (K,) int64, ascending, K >= 2.
        counts: (K,) int64, positive, with sum 2^log_total.
    """

    used: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    log_total: int

    def model(self) -> Any:
        """Return constriction's model over the ranks 0 .. K - 1."""
        return stream.model.Categorical(self.counts.astype(np.float64), perfect=False)

    def bits(self, histogram: npt.NDArray[np.int64]) -> float:
        """Return the bits that symbols with this histogram (K,) take under the model, the table left out."""
        n_used = self.used.size
        edges = np.concatenate([[0], np.cumsum(self.counts)])
        left = ((edges * ((1 << PRECISION) - n_used)) >> self.log_total) + np.arange(n_used + 1)
        left[-1] = 1 << PRECISION
        return float((histogram * (PRECISION - np.log2(np.diff(left)))).sum())

    def n_bytes(self, histogram: npt.NDArray[np.int64]) -> float:
        """Return the bytes of table and symbols with this histogram (alphabet_size,)."""
        return (self.bits(histogram[self.used]) + self.n_table_bits()) / 8

    def write(self) -> bytes:
        """Return the table: log_total, Golomb order, then the frequencies from symbol 0 on until they reach the total.

        A frequency of zero is followed by how many more zeros come.
        """
        order, _ = self._best_order()
        bits = BitWriter()
        bits.fixed(self.log_total, _TOTAL_BITS)
        bits.fixed(order, _ORDER_BITS)
        runs = np.diff(self.used, prepend=-1) - 1
        for run, count in zip(runs.tolist(), self.counts.tolist(), strict=True):
            if run:
                bits.golomb(0, order)
                bits.golomb(run - 1, 0)
            bits.golomb(count, order)
        return bits.payload()

    def n_table_bits(self) -> int:
        """Return the length of the table before padding."""
        return self._best_order()[1]

    def _best_order(self) -> tuple[int, int]:
        """Return the Golomb order that makes the table shortest, and its bits."""
        runs = np.diff(self.used, prepend=-1) - 1
        runs = runs[runs > 0]
        orders = np.arange(1 << _ORDER_BITS)
        lengths = golomb_lengths(self.counts, orders) + runs.size * (1 + orders)
        best = int(np.argmin(lengths))
        run_bits = int(golomb_lengths(runs - 1, orders[:1])[0]) if runs.size else 0
        return best, _TOTAL_BITS + _ORDER_BITS + int(lengths[best]) + run_bits


def read_frequencies(payload: Payload, alphabet_size: int) -> tuple[Frequencies, int]:
    """Return the table at the front of `payload` and how many bytes it occupies.

    Raises:
        ContainerError: the table is cut off, exceeds its total, or names a symbol outside the alphabet.
    """
    bits = BitReader(payload)
    log_total = bits.fixed(_TOTAL_BITS)
    if log_total > MAX_LOG_TOTAL:
        raise ContainerError(f"a frequency table has total 2^{log_total}; the format allows 2^{MAX_LOG_TOTAL}")
    order = bits.fixed(_ORDER_BITS)
    used: list[int] = []
    counts: list[int] = []
    symbol, remaining = 0, 1 << log_total
    while remaining > 0:
        count = bits.golomb(order)
        if count:
            used.append(symbol)
            counts.append(count)
            symbol += 1
        else:
            symbol += 1 + bits.golomb(0)
        remaining -= count
        if symbol > alphabet_size:
            raise ContainerError(f"a frequency table goes beyond its alphabet of {alphabet_size} symbols")
    if remaining < 0 or len(used) < 2:
        raise ContainerError("a frequency table needs two symbols or more, and must sum to its total")
    frequencies = Frequencies(np.array(used, np.int64), np.array(counts, np.int64), log_total)
    return frequencies, bits.n_bytes_used()


def fit(histogram: npt.NDArray[np.int64]) -> Frequencies:
    """Return the frequencies that make table plus symbols shortest; `histogram` (alphabet_size,) needs two uses.

    Finer totals describe the symbols better and take a longer table, so a small tensor gets a coarse one.
    """
    used = np.flatnonzero(histogram)
    occurrences = histogram[used]
    lowest = max(int(used.size - 1).bit_length(), 1)
    highest = max(min(16, int(occurrences.sum()).bit_length() + 1), lowest + 1)
    candidates = [
        Frequencies(used, _normalize(occurrences, log_total), log_total) for log_total in range(lowest, highest + 1)
    ]
    return min(candidates, key=lambda c: c.bits(occurrences) + c.n_table_bits())


def _normalize(occurrences: npt.NDArray[np.int64], log_total: int) -> npt.NDArray[np.int64]:
    """Scale to a sum of 2^log_total by the largest remainders, with every symbol kept at one or more."""
    total = 1 << log_total
    n_symbols = int(occurrences.sum())
    counts = np.maximum(occurrences * total // n_symbols, 1)
    remainders = occurrences * total % n_symbols
    missing = total - int(counts.sum())
    if missing > 0:
        counts[np.argsort(-remainders, kind="stable")[:missing]] += 1
        missing = total - int(counts.sum())
        counts[int(np.argmax(counts))] += missing
    while missing < 0:
        largest = np.argsort(-counts, kind="stable")[: min(-missing, int((counts > 1).sum()))]
        counts[largest] -= 1
        missing += largest.size
    return counts
