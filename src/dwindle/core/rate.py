"""This file estimates how many bits an encoding will take in the file, without coding it."""

from __future__ import annotations

import torch
from torch import Tensor

from dwindle.core.encoding import Encoding, streams
from dwindle.errors import EncodingError


def entropy_bits(symbols: Tensor, alphabet_size: int) -> float:
    """Return the order-0 entropy of `symbols` in bits, summed over all of them, without the table of frequencies.

    Args:
        symbols: whole numbers in [0, alphabet_size), any shape.
        alphabet_size: number of different symbols that could occur.

    Raises:
        EncodingError: a symbol outside the alphabet.

    >>> entropy_bits(torch.tensor([0, 1, 2, 3]), 4)
    8.0
    """
    counts = _counts(symbols.flatten(), alphabet_size).double()
    counts = counts[counts > 0]
    bits = float((counts * torch.log2(symbols.numel() / counts)).sum())
    return max(bits, 0.0)


def estimate_bits(encoding: Encoding) -> float:
    """Return the bits of all streams of `encoding`: entropy of the symbols, the width of the dtype for raw values.

    >>> from dwindle.core.encoding import Dense
    >>> estimate_bits(Dense(torch.ones(3)))
    96.0
    """
    return sum(
        float(stream.symbols.numel() * stream.symbols.element_size() * 8)
        if stream.alphabet_size is None
        else entropy_bits(stream.symbols, stream.alphabet_size)
        for stream in streams(encoding)
    )


def _counts(symbols: Tensor, alphabet_size: int) -> Tensor:
    if symbols.numel() == 0:
        return torch.zeros(0)
    whole = symbols.to(torch.uint8) if symbols.dtype == torch.bool else symbols
    smallest, largest = (int(v) for v in whole.aminmax())
    if smallest < 0 or largest >= alphabet_size:
        raise EncodingError(f"symbols must lie in [0, {alphabet_size}), got [{smallest}, {largest}]")
    return torch.bincount(whole, minlength=alphabet_size)
