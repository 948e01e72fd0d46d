"""This file runs the blocks of one guide in order, in the current folder; the first failure names guide and line.

    python run_guide.py guide.md

- A block whose first line is `# file: NAME` is written to NAME, whatever its language.
- `python` blocks run in this process, one after the other, with the same names.
- `bash` blocks run with `set -euo pipefail` and the folder of this Python first on the PATH.
- A `text` block after the line `<!-- prints -->` must be what the block before it printed; `...` stands for anything.
- The line `<!-- not run: reason -->` before a block leaves it out, `<!-- needs: module, ... -->` where one of these
  modules cannot be imported. Other blocks are only there to be read.
"""

# ruff: file-ignore[print]

from __future__ import annotations

import contextlib
import doctest
import importlib.util
import io
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(`{3,})([^`]*)$")
FILE = re.compile(r"#\s*file:\s*(\S+)\s*$")
MARK = re.compile(r"<!--\s*(prints|not run:.+?|needs:.+?)\s*-->")
INERT = {"", "text", "toml", "json", "c", "console"}
LOOSELY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class BlockError(Exception):
    """A block does not do what the guide says."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its first line's number (that of the fence), language, text, and the mark before it."""

    line: int
    language: str
    text: str
    mark: str

    @property
    def file(self) -> str | None:
        """The name of the file that this block is, if it is one."""
        match = FILE.match(self.text.partition("\n")[0])
        return match[1] if match else None


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page.

    Raises:
        BlockError: a fence is never closed.
    """
    lines, start, language, fence, mark = text.splitlines(), 0, "", "", ""
    for number, line in enumerate(lines, start=1):
        match = FENCE.match(line.strip()) if not fence or line.strip().startswith(fence) else None
        if match is None:
            mark = _mark(line, mark) if not fence else mark
        elif not fence:
            start, fence, language = number, match[1], match[2].strip()
        else:
            yield Block(start, language, "\n".join(lines[start : number - 1]) + "\n", mark)
            fence, mark = "", ""
    if fence:
        raise BlockError(f"line {start}: this block is never closed")


def run(guide: Path, text: str) -> int:
    """Run every block; return how many did something.

    Raises:
        BlockError: a block failed, printed something else than promised, or has an unknown language.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    printed, n_run = "", 0
    for block in blocks(text):
        if block.mark.startswith("not run") or _lacks(block.mark):
            continue
        if block.mark == "prints":
            _require_output(block, printed)
        elif block.file is not None:
            _write(block)
        elif block.language == "python":
            printed = _run_python(block, guide, names)
        elif block.language == "bash":
            printed = _run_bash(block)
        elif block.language in INERT:
            continue
        else:
            raise BlockError(f"line {block.line}: unknown language {block.language!r}; it would never be run")
        n_run += 1
    return n_run


def _mark(line: str, earlier: str) -> str:
    match = MARK.fullmatch(line.strip())
    return match[1] if match else (earlier if not line.strip() else "")


def _lacks(mark: str) -> bool:
    """Return whether a module that the mark names is not installed."""
    needed = mark.removeprefix("needs:").split(",") if mark.startswith("needs:") else ()
    return any(importlib.util.find_spec(name.strip()) is None for name in needed)


def _write(block: Block) -> None:
    path = Path(str(block.file))
    if path.is_absolute() or ".." in path.parts:
        raise BlockError(f"line {block.line}: {path} leaves the folder of the guide")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, encoding="utf-8")


def _run_python(block: Block, guide: Path, names: dict[str, object]) -> str:
    out = io.StringIO()
    try:
        # Empty lines before it give every line the number that it has in the guide.
        code = compile("\n" * block.line + block.text, str(guide), "exec", dont_inherit=True)
        with contextlib.redirect_stdout(out):
            exec(code, names)
    except SyntaxError as error:
        raise BlockError(f"line {error.lineno}: SyntaxError: {error.msg}") from error
    except BaseException as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(guide)]
        print(out.getvalue(), end="")
        raise BlockError(f"line {lines[-1] if lines else block.line}: {type(error).__name__}: {error}") from error
    return out.getvalue()


def _run_bash(block: Block) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = ["bash", "-euo", "pipefail", "-c", block.text]
    finished = subprocess.run(
        command, env={**os.environ, "PATH": path}, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if finished.returncode != 0:
        raise BlockError(
            f"line {block.line}: exit code {finished.returncode}\n{finished.stdout[-4000:]}{finished.stderr[-4000:]}"
        )
    return finished.stdout


def _require_output(block: Block, printed: str) -> None:
    if not doctest.OutputChecker().check_output(block.text, printed, LOOSELY):
        raise BlockError(f"line {block.line}: the block before printed\n{printed}not\n{block.text}")


def main() -> None:
    """Run the guide that the command line names."""
    guide = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(Path.cwd()))
    try:
        n_run = run(guide, guide.read_text(encoding="utf-8"))
    except BlockError as error:
        traceback.print_exc()
        sys.exit(f"{guide}: {error}")
    print(f"{guide.name}: {n_run} blocks")


if __name__ == "__main__":
    main()
