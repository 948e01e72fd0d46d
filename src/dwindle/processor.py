"""This file says what the processor can do, as far as the system tells."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final, NamedTuple

FEATURES: Final = ("avx", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
                   "asimd", "asimddp", "i8mm", "sve")  # fmt: skip
"""Instruction sets that decide how fast int8 and bf16 run; those absent from the processor are left out."""
VNNI: Final = frozenset({"avx512_vnni", "avx_vnni"})
"""With these x86 sums products of uint8 and int8 in int32; without them it sums pairs in int16, which saturates."""
INT8: Final = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve")
"""Those that sum products of 8-bit integers in one step; processors without them take three."""
BF16: Final = ("avx512_bf16", "amx_bf16")
"""Those that multiply bfloat16; others emulate it."""


class Processor(NamedTuple):
    """A processor; both are empty where the system does not tell.

    Attributes:
        features: those of `FEATURES` that it has.
    """

    name: str
    features: tuple[str, ...]


@functools.cache
def this_processor() -> Processor:
    """Return the first processor of this machine."""
    try:
        return parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:  # not Linux
        return parse_cpuinfo("")


def parse_cpuinfo(text: str) -> Processor:
    r"""Return the first processor in the text of Linux's /proc/cpuinfo.

    >>> parse_cpuinfo("model name : Some CPU\nflags : fpu avx avx2\n")
    Processor(name='Some CPU', features=('avx', 'avx2'))
    """
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    flags = fields.get("flags", fields.get("features", "")).split()
    name = fields.get("model name") or fields.get("model") or fields.get("hardware") or ""
    return Processor(name, tuple(feature for feature in FEATURES if feature in flags))
