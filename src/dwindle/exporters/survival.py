"""This file reads an exported file back: are the integers and scales in it the ones that the model has?

Converters are told our integers, yet some requantize, fold or drop them. A weight is looked for byte by byte in the
layouts that engines store: as it is, channels last (out, height, width, in), and depthwise (height, width, channels).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dwindle.network.integer_program import Integers


def lost_integers(data: bytes, weights: Mapping[str, Integers], scales: Sequence[float]) -> list[str]:
    """Return what `data` does not hold: names of weights whose codes or scales are absent, and scales of activations.

    Args:
        data: all bytes of the file.
        weights: name -> the integers that must be in it.
        scales: of activations.

    >>> lost_integers(b"", {}, (0.5,))
    ['an activation of scale 0.5']
    """
    found: list[str] = []
    for name, form in weights.items():
        if not any(codes.tobytes() in data for codes in _layouts(form.codes)):
            found.append(f"the codes of {name!r}")
        elif np.ascontiguousarray(form.scale, dtype="<f4").tobytes() not in data:
            found.append(f"the scales of {name!r}")
    found.extend(f"an activation of scale {s:g}" for s in dict.fromkeys(scales) if np.float32(s).tobytes() not in data)
    return found


def _layouts(codes: npt.NDArray[np.int8]) -> Iterator[npt.NDArray[np.int8]]:
    yield codes
    if codes.ndim > 2:
        yield np.moveaxis(codes, 1, -1)
        if codes.shape[1] == 1:
            yield np.moveaxis(codes[:, 0], 0, -1)
