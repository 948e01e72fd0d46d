"""This file states how much a `.dwn` file may promise; the reader checks every promise before it allocates anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_ALPHABET: Final = 1 << 16
MAX_RANK: Final = 8
MAX_NAME_BYTES: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a reader accepts; the defaults are the ones of docs/format.md.

    Attributes:
        header_bytes: header after decompression.
        graph_bytes: graph after decompression.
        n_tensors: tensors with an encoding.
        n_elements: numbers in all tensors together: weights, scales, zero points, centroids and factors.
        decoded_bytes: all tensors once decoded, with what lies behind them: supports, scales and the like.
    """

    header_bytes: int = 16 << 20
    graph_bytes: int = 256 << 20
    n_tensors: int = 1 << 16
    n_elements: int = 1 << 30
    decoded_bytes: int = 4 << 30


DEFAULT_LIMITS: Final = Limits()
