"""This file gives every test the same small, closed world: one thread, fixed seeds, no internet, an empty folder."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import functools
import random
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn

if TYPE_CHECKING:
    from dwindle.artifact import Artifact
    from dwindle.network.compressed import CompressedModel

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


class EveryOther(nn.Module):
    """A slice, whose numbers stand beside the biases of other layers in some formats."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, ::2, ::2]


@pytest.fixture(scope="session")
def engine_images() -> torch.Tensor:
    """Return the inputs of the networks in `engine_models`."""
    return torch.rand(16, 2, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def engine_models(engine_images: torch.Tensor) -> Mapping[str, CompressedModel]:
    """Return one small network in the forms that files for other engines are made from."""
    from dwindle.network.compressed import CompressedModel
    from dwindle.technique import Context
    from dwindle.techniques.quantize_static import QuantizeStatic

    torch.manual_seed(0)
    depthwise = nn.Conv2d(8, 8, 3, groups=8)
    layers = (nn.Conv2d(2, 8, 3), nn.ReLU(), depthwise, nn.ReLU(), EveryOther(), nn.Flatten(), nn.Linear(32, 4))
    dense = CompressedModel.dense(nn.Sequential(*layers).eval())
    context = Context(example=engine_images[:2], calibration=[engine_images])
    static = QuantizeStatic(weights=7, quantize_output=True)  # OpenVINO saturates at 8 on processors without VNNI
    return {
        "float": dense,
        "int8": static.apply(dense, context),
        "int16": replace(static, activations=16).apply(dense, context),
    }


@pytest.fixture(scope="session")
def engine_file(
    engine_models: Mapping[str, CompressedModel],
    engine_images: torch.Tensor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, str], Artifact]:
    """Return what gives the file of a model of `engine_models` in a format, which is written once."""
    folder = tmp_path_factory.mktemp("engines")

    @functools.cache
    def made(name: str, file_format: str) -> Artifact:
        from dwindle.bench.deployment import EXPORTERS
        from dwindle.exporters.options import ExportOptions

        exporter = EXPORTERS[file_format]({}, ExportOptions())
        if absent := [reason for reason in exporter.obstacles(engine_models[name]) if "install" in reason]:
            pytest.skip(absent[0])
        return exporter.export(engine_models[name], engine_images, folder / f"{name}.{file_format}")

    return made
