"""This file tests the door of the command line."""

from __future__ import annotations

import subprocess
import sys


def test_the_commands_are_known_before_heavy_libraries_are_imported() -> None:
    """Ctrl-C before `run` has begun would print a traceback, so little may happen until then."""
    code = "import sys, dwindle.cli.main; print([m for m in ('torch', 'onnx', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
