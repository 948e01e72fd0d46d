"""This file tests loading and saving weights: what fits, what does not, and what is refused unread."""

from __future__ import annotations

import contextlib
import pickle
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from dwindle.errors import CheckpointError, NetworkError
from dwindle.network.checkpoint import load_checkpoint, save_checkpoint


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.out = nn.Linear(3, 5)
        self.out.weight = self.embedding.weight


def test_what_was_saved_is_loaded(tmp_path):
    source, target = Tied(), Tied()
    save_checkpoint(source, tmp_path / "new" / "w.safetensors")
    load_checkpoint(target, tmp_path / "new" / "w.safetensors")
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)
    assert target.out.weight is target.embedding.weight
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["w.safetensors"]


def test_channels_last_weights_are_saved(tmp_path):
    source = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    target = nn.Conv2d(2, 3, 3)
    save_checkpoint(source, tmp_path / "w")
    load_checkpoint(target, tmp_path / "w")
    assert torch.equal(source.weight, target.weight)


def test_half_precision_is_widened(tmp_path):
    layer = nn.Linear(3, 2)
    save_file({"weight": torch.ones(2, 3).half(), "bias": torch.zeros(2).double()}, tmp_path / "w")
    load_checkpoint(layer, tmp_path / "w")
    assert layer.weight.dtype == torch.float32
    assert bool((layer.weight == 1).all())


def other_files(path):
    torch.save(nn.Linear(2, 2).state_dict(), path / "zip")
    torch.save(nn.Linear(2, 2).state_dict(), path / "legacy", _use_new_zipfile_serialization=False)
    (path / "pickle").write_bytes(pickle.dumps({"weight": [1.0]}))
    (path / "hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    (path / "empty").write_bytes(b"")
    (path / "terabyte").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    (path / "text").write_bytes(b"weights: none, sorry")
    (path / "json").write_bytes(struct.pack("<Q", 4) + b"{..}")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("zip", r"zip archive, as torch.save .*convert it once: safetensors\.torch\.save_file"),
        ("legacy", "is a pickle, which can run code.*convert it once"),
        ("pickle", "is a pickle, which can run code.*convert it once"),
        ("hdf5", "HDF5"),
        ("empty", r"0 bytes.*cut short"),
        ("terabyte", "claims 1,099,511,627,776 bytes"),
        ("text", "not safetensors or was cut short"),
        ("json", "not valid safetensors"),
        ("absent", "cannot be read.*No such file"),
    ],
)
def test_what_is_not_safetensors_is_named_and_not_opened(tmp_path, name, words):
    other_files(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(nn.Linear(2, 2), tmp_path / name)


@given(cut=st.integers(0, 155), flip=st.integers(0, 155 * 8 - 1))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_gives_one_of_our_errors_or_loads(tmp_path, cut, flip):
    layer = nn.Linear(2, 2)
    save_checkpoint(layer, tmp_path / "w")
    data = bytearray((tmp_path / "w").read_bytes())
    (tmp_path / "cut").write_bytes(data[: min(cut, len(data) - 1)])
    with pytest.raises(CheckpointError, match=r"cut short|not valid safetensors"):
        load_checkpoint(layer, tmp_path / "cut")
    data[flip // 8 % len(data)] ^= 1 << flip % 8
    (tmp_path / "flipped").write_bytes(data)
    with contextlib.suppress(CheckpointError, NetworkError):  # a flipped weight bit loads; nothing else may come out
        load_checkpoint(nn.Linear(2, 2), tmp_path / "flipped")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bais": torch.zeros(2), "bias": None}, "1 missing .'bias', nearest 'bais'.; 1 unexpected .'bais', near"),
        ({"bias": None}, "1 missing .'bias'"),
        ({f"x{i}": torch.zeros(1) for i in range(9)}, "9 unexpected .*and 4 more"),
        ({"weight": torch.zeros(3, 2)}, r"shape \(3, 2\) in the checkpoint and \(2, 3\) in the network"),
        ({"weight": torch.zeros(2, 3, dtype=torch.int8)}, "int8"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_listed_and_nothing_is_changed(tmp_path, change, words):
    layer = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    stored = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), **change}
    save_file({name: value for name, value in stored.items() if value is not None}, tmp_path / "w")
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(layer, tmp_path / "w")
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in before.items())


def test_nan_weights_are_refused(tmp_path):
    save_file({"weight": torch.tensor([[1.0, float("nan")]]), "bias": torch.tensor([float("inf")])}, tmp_path / "w")
    with pytest.raises(NetworkError, match=r"1 NaN or infinite values"):
        load_checkpoint(nn.Linear(2, 1), tmp_path / "w")


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left.*free some space"):
        save_checkpoint(nn.Linear(2, 1), tmp_path / "w")
    assert not list(tmp_path.iterdir())
