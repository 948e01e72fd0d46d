"""This file turns names of tensors into identifiers of C: valid, different, and no word of the language."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

LONGEST: Final = 40
"""Characters of a name that are kept: compilers tell 63 apart, and suffixes follow."""


def identifier(name: str) -> str:
    """Return `name` with everything but ASCII letters, digits and single underscores replaced; it starts with a letter.

    >>> identifier("conv.0/weight"), identifier("3x3"), identifier("ümläut__x")
    ('conv_0_weight', 'm_3x3', 'ml_ut_x')
    """
    words = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:LONGEST].rstrip("_")
    return words if words[:1].isalpha() else f"m_{words}".rstrip("_")


class Names:
    """Gives out identifiers, none twice; those that differ in case alone count as equal, because macros are upper."""

    def __init__(self, prefix: str) -> None:
        self.prefix = identifier(prefix)
        self._taken: set[str] = set()

    def claim(self, name: str, suffixes: Sequence[str]) -> str:
        """Return `<prefix>_<name>` (numbered where that is taken), such that it is free with every suffix behind it."""
        base = f"{self.prefix}_{identifier(name)}"
        number = 1
        candidate = base
        while any(f"{candidate}{suffix}".lower() in self._taken for suffix in suffixes):
            number += 1
            candidate = f"{base}_{number}"
        self._taken.update(f"{candidate}{suffix}".lower() for suffix in suffixes)
        return candidate


def comment(text: str) -> str:
    """Return `text` so that it can stand in a comment: one line of ASCII that does not end it.

    >>> comment("a*/b")
    'a* /b'
    """
    return ascii(text)[1:-1].replace("*/", "* /").replace("/*", "/ *")
