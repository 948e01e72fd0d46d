"""This file keeps what engines print while they load a file: their reasons stand in an error, not on the terminal.

Engines written in C++ write to the process's standard error, past Python's `sys.stderr`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager

_LINES = 3
"""The last lines tell why; those before them tell what the engine was doing."""


@contextmanager
def caught_chatter() -> Generator[Callable[[], str]]:
    """Catch what is written to standard error; call what this gives for the last lines of it, in one."""
    with tempfile.TemporaryFile() as file:
        try:
            before = os.dup(2)
        except OSError:  # a process without a standard error has nothing to catch
            yield lambda: ""
            return
        os.dup2(file.fileno(), 2)

        def told() -> str:
            file.seek(0)
            lines = file.read().decode(errors="replace").splitlines()
            return "; ".join(line.strip() for line in lines[-_LINES:] if line.strip())

        try:
            yield told
        finally:
            os.dup2(before, 2)
            os.close(before)
