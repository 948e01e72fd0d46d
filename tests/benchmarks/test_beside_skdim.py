"""The comparison with scikit-dimension says so where the peer is absent, and agrees with it where it is installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def last_line(repository: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(repository / "benchmarks/dimension.py"), "--threads", "1", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("peer", ["/no/such/python", "/bin/false"])
def test_without_the_peer_it_is_skipped(repository: Path, peer: str) -> None:
    found = last_line(repository, "--peer", peer)
    assert f"{peer} does not import skdim" in found["skipped"]


@pytest.mark.skipif(importlib.util.find_spec("skdim") is None, reason="scikit-dimension is not installed here")
def test_both_sides_say_the_same(repository: Path) -> None:
    assert last_line(repository, "--quick")["max_abs_difference"] <= 1e-6
