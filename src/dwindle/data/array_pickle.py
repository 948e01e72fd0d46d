"""This file reads pickles that hold byte arrays, numbers and text, such as CIFAR-10's, without running what they say.

A pickle is a program. Four bolts keep a hostile one from doing anything:

1. Only the opcodes that such files need are let through, before anything is run (`pickletools` reads them).
2. A name in the file is never imported: `ndarray`, `dtype`, `_reconstruct` and `_codecs.encode` stand for small classes
   of this file, every other name is refused.
3. Slots of the memo are no larger than the file could fill, or the unpickler would reserve memory for them.
4. Tuples are counted, as a deeply nested one used as a key overruns the C stack when it is hashed.
"""

from __future__ import annotations

import io
import math
import pickle  # only its Unpickler, which below may call what this file defines and nothing else
import pickletools
from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from dwindle.errors import DataError

_CONTENT_OPCODES: Final = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE",
    "APPEND", "APPENDS", "SETITEM", "SETITEMS", "BININT", "BININT1", "BININT2", "SHORT_BINSTRING", "BINSTRING",
    "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINBYTES", "BINBYTES",
})  # fmt: skip
_MEMO_OPCODES: Final = frozenset({"BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "MEMOIZE"})
_BUILDING_OPCODES: Final = frozenset({"GLOBAL", "REDUCE", "BUILD", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
_MAX_BUILDING: Final = 64
"""The official files need about ten such opcodes for their one array."""


def read_array_pickle(data: bytes, *, what: str) -> Mapping[Any, Any]:
    """Return the mapping that a pickle holds; text of Python 2 is bytes, arrays are uint8.

    Args:
        data: the pickle.
        what: the file, for messages.

    Raises:
        DataError: it holds anything but byte arrays, numbers, text, lists and mappings, or is damaged.
    """
    try:
        _require_plain(data)
        content: Any = _Reader(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a broken pickle raises almost anything
        raise DataError(
            f"{what} is not a plain array pickle ({type(error).__name__}: {error}); load it again"
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{what} holds a {type(content).__name__}, not a mapping of names to arrays; load it again")
    return {
        key: value.values if isinstance(value, _ByteArray) else value
        for key, value in cast("dict[Any, Any]", content).items()
    }


def _require_plain(data: bytes) -> None:
    n_building = 0
    for n_opcodes, (opcode, argument, position) in enumerate(pickletools.genops(data), start=1):
        n_building += opcode.name in _BUILDING_OPCODES
        if opcode.name in _MEMO_OPCODES:
            if argument is not None and int(argument) > n_opcodes:
                raise pickle.UnpicklingError(f"slot {argument} of the memo at byte {position}")
        elif opcode.name not in _CONTENT_OPCODES | _BUILDING_OPCODES:
            raise pickle.UnpicklingError(f"opcode {opcode.name} at byte {position}")
        if n_building > _MAX_BUILDING:
            raise pickle.UnpicklingError(f"more than {_MAX_BUILDING} tuples and calls")


class _ByteType:
    """Stands for `numpy.dtype`, of which only the unsigned byte is let through."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        if code not in {"u1", b"u1"}:
            raise pickle.UnpicklingError(f"an array of type {code!r}")

    def __setstate__(self, state: object) -> None:
        """Take nothing: a byte has neither byte order nor fields."""


class _ByteArray:
    """Stands for `numpy.ndarray` and for `_reconstruct`, which makes one that `BUILD` fills."""

    values: npt.NDArray[np.uint8]

    def __init__(self, *_: object) -> None:
        self.values = np.empty(0, dtype=np.uint8)

    def __setstate__(self, state: Any) -> None:
        """Fill in `(version, shape, type, is_fortran, bytes)`."""
        _, shape, kind, is_fortran, raw = state
        if not isinstance(kind, _ByteType) or not isinstance(raw, bytes) or any(int(side) < 0 for side in shape):
            raise pickle.UnpicklingError("an array of something else than bytes")
        if math.prod(shape) != len(raw):
            raise pickle.UnpicklingError(f"an array {shape} of {len(raw):,} bytes")
        self.values = np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if is_fortran else "C")


class _Latin1:
    """Stands for `_codecs.encode`, with which Python 3 writes bytes into old pickles."""

    def __new__(cls, text: object, encoding: object) -> Any:
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError(f"text in the encoding {encoding!r}")
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        """Be there, or `BUILD` would set attributes of this class (a class finds this and fails for want of `self`)."""


_STAND_INS: Final[Mapping[tuple[str, str], type]] = {
    ("numpy.core.multiarray", "_reconstruct"): _ByteArray,
    ("numpy._core.multiarray", "_reconstruct"): _ByteArray,
    ("numpy", "ndarray"): _ByteArray,
    ("numpy", "dtype"): _ByteType,
    ("_codecs", "encode"): _Latin1,
}


class _Reader(pickle.Unpickler):  # ruff: ignore[suspicious-pickle-usage]
    """Gives the stand-ins for the names they stand for; any other is refused, and nothing is imported."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (stand_in := _STAND_INS.get((module_name, global_name))) is None:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        return stand_in
