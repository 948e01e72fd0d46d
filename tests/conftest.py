"""This file gives every test the same small, closed world: one thread, fixed seeds, no internet, an empty folder."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("dwindle.testing.technique_laws")
torch.set_num_threads(1)
settings.register_profile("default", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")

LOCAL = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "", None}
_connect = socket.socket.connect
_getaddrinfo = socket.getaddrinfo


class InternetAccessError(AssertionError):
    """A test reached for the internet."""


def _is_local(address: Any) -> bool:
    return not isinstance(address, tuple) or address[0] in LOCAL


def _connect_locally(self: socket.socket, address: Any) -> None:
    if not _is_local(address):
        raise InternetAccessError(f"a test may not open a connection to {address}; mark it with pytest.mark.network")
    _connect(self, address)


def _resolve_locally(host: Any, *args: Any, **kwargs: Any) -> Any:
    if host not in LOCAL:
        raise InternetAccessError(f"a test may not look up {host!r}; mark it with pytest.mark.network")
    return _getaddrinfo(host, *args, **kwargs)


@pytest.fixture(autouse=True)
def closed_world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Seed the global generators, block the internet unless the test is marked, and work in an empty folder."""
    random.seed(0)
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    if request.node.get_closest_marker("network") is None:
        monkeypatch.setattr(socket.socket, "connect", _connect_locally)
        monkeypatch.setattr(socket, "getaddrinfo", _resolve_locally)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the repository, to read files from."""
    return Path(__file__).resolve().parents[1]
