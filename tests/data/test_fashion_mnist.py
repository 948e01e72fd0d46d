"""This file tests the Fashion-MNIST loader, on small made files everywhere and on the real ones where they are."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

from dwindle.data import fashion_mnist
from dwindle.data.fashion_mnist import load_fashion_mnist
from dwindle.errors import DataError, SettingError


def write_images(path, n):
    pixels = np.arange(n * 28 * 28, dtype=np.int64).astype(np.uint8)
    path.write_bytes(gzip.compress(struct.pack(">4I", 2051, n, 28, 28) + pixels.tobytes()))


def write_labels(path, n):
    path.write_bytes(gzip.compress(struct.pack(">2I", 2049, n) + bytes(i % 10 for i in range(n))))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "N_VALIDATION", 5)
    monkeypatch.setattr(fashion_mnist, "N_IMAGES", {"train": 25, "t10k": 12})
    for part, n in (("train", 25), ("t10k", 12)):
        write_images(tmp_path / f"{part}-images-idx3-ubyte.gz", n)
        write_labels(tmp_path / f"{part}-labels-idx1-ubyte.gz", n)
    return tmp_path


def test_three_splits(folder):
    splits = load_fashion_mnist(folder)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [20, 5, 12]
    assert splits.n_classes == 10
    first = splits.test.tensors[0][0]
    assert first.shape == (1, 28, 28)
    assert float(first[0, 0, 3]) == pytest.approx((3 / 255 - 0.2860) / 0.3530)


def test_another_size(folder):
    assert load_fashion_mnist(folder, size=33).train.tensors[0].shape == (20, 1, 33, 33)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: raw[: len(raw) // 2], "not a whole gzip file"),
        (lambda raw: b"no gzip at all", "not a whole gzip file"),
        (lambda raw: gzip.compress(gzip.decompress(raw)[:-1]), "not the IDX file it is named for"),
        (lambda raw: gzip.compress(b"\0" + gzip.decompress(raw)[1:4] + bytes(9)), "not the IDX file"),
        (lambda raw: gzip.compress(b""), "not the IDX file"),
        (lambda raw: raw[:40] + bytes([raw[40] ^ 255]) + raw[41:], "not a whole gzip file"),
        (lambda raw: gzip.compress(b"abc"), "not the IDX file"),
    ],
)
def test_a_damaged_file_is_named(folder, damage, words):
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"t10k-images.*{words}"):
        load_fashion_mnist(folder)


def test_images_without_labels_are_refused(folder):
    write_labels(folder / "t10k-labels-idx1-ubyte.gz", 11)
    with pytest.raises(DataError, match=r"t10k has images \(12, 28, 28\) and 11 labels"):
        load_fashion_mnist(folder)


def test_another_number_of_images_than_published_is_refused(folder):
    write_images(folder / "train-images-idx3-ubyte.gz", 24)
    write_labels(folder / "train-labels-idx1-ubyte.gz", 24)
    with pytest.raises(
        DataError, match=r"train has images \(24, 28, 28\) and 24 labels; published were \(25, 28, 28\)"
    ):
        load_fashion_mnist(folder)


def test_a_small_bomb_is_stopped_at_the_limit(folder, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_MAX_BYTES", 30_000)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(10**7)))
    with pytest.raises(DataError, match=r"\(header \[0, 0, 0, 0\], 30,000 bytes\)"):
        load_fashion_mnist(folder)


def test_a_size_that_cannot_be(folder):
    with pytest.raises(SettingError, match="size must be at least 1 pixel, got 0"):
        load_fashion_mnist(folder, size=0)


def test_recompressed_files_are_fine(folder):
    path = folder / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1))
    assert len(load_fashion_mnist(folder).test) == 12


def test_the_real_data_are_the_published_ones(real):
    splits = real(load_fashion_mnist)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [55_000, 5_000, 10_000]
    assert splits.test.tensors[1].bincount().tolist() == [1000] * 10
    both = splits.train.tensors[1].bincount() + splits.validation.tensors[1].bincount()
    assert both.tolist() == [6000] * 10
    assert splits.test.tensors[1][:5].tolist() == [9, 2, 1, 1, 6]
    assert abs(float(splits.train.tensors[0].mean())) < 0.01
    assert torch.isfinite(splits.train.tensors[0]).all()
