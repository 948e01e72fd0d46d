"""This file puts the examples of docstrings (`>>>` lines) into fenced blocks, which Markdown needs to show them."""

from __future__ import annotations

from typing import Any

import griffe


class FenceDoctests(griffe.Extension):
    """Fences bare doctests in every docstring that Griffe reads."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of `obj`, if it has one."""
        if obj.docstring is not None:
            obj.docstring.value = fence(obj.docstring.value)


def fence(text: str) -> str:
    """Return `text` with a fence around each doctest; a doctest ends at an empty line or where the text does."""
    lines: list[str] = []
    indent: str | None = None
    for line in [*text.splitlines(), ""]:
        content = line.lstrip()
        if indent is None and content.startswith(">>>"):
            indent = line[: len(line) - len(content)]
            lines.append(f"{indent}```pycon")
        elif indent is not None and not content:
            lines.append(f"{indent}```")
            indent = None
        lines.append(line)
    return "\n".join(lines[:-1] if not text.endswith("\n") else lines)
