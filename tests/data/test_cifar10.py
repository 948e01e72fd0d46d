"""This file tests the CIFAR-10 loader, on small made files everywhere and on the real ones where they are."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle

import numpy as np
import pytest
import torch

from dwindle.data import cifar10
from dwindle.data.cifar10 import MEAN, SOURCE, STD, load_cifar10
from dwindle.errors import DataError


def write_batch(path, n, *, first=0):
    images = (np.arange(n * 3072, dtype=np.int64) + first).astype(np.uint8).reshape(n, 3072)
    content = {b"batch_label": b"x", b"labels": [(row + first) % 10 for row in range(n)], b"data": images}
    path.write_bytes(pickle.dumps(content, protocol=2))


def trust(folder, monkeypatch):
    """Let the files in `folder` be the published ones."""
    files = {name: "md5:" + hashlib.md5((folder / name).read_bytes()).hexdigest() for name in SOURCE.files}
    monkeypatch.setattr(cifar10, "SOURCE", dataclasses.replace(SOURCE, files=files))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "N_VALIDATION", 5)
    for number, name in enumerate(SOURCE.files):
        write_batch(tmp_path / name, 4 if name != "test_batch" else 7, first=number)
    trust(tmp_path, monkeypatch)
    return tmp_path


def test_three_splits(folder):
    splits = load_cifar10(folder)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [15, 5, 7]
    assert splits.class_names[3] == "cat"
    first, label = splits.test[0]
    assert first.shape == (3, 32, 32)
    assert label == 5
    red, green = (((5 + place) % 256 / 255 - MEAN[c]) / STD[c] for c, place in ((0, 33), (1, 1024 + 2)))
    assert float(first[0, 1, 1]) == pytest.approx(red)
    assert float(first[1, 0, 2]) == pytest.approx(green)


def test_another_file_than_the_published_is_refused(folder):
    write_batch(folder / "data_batch_2", 3)
    with pytest.raises(DataError, match="holds a damaged or different data_batch_2"):
        load_cifar10(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({b"labels": [0]}, "holds no images"),
        ({b"data": np.zeros((1, 3071), np.uint8), b"labels": [0]}, "holds no images"),
        ({b"data": np.zeros(3072, np.uint8), b"labels": [0]}, "holds no images"),
        ({b"data": np.zeros((1, 3072), np.uint8)}, "holds no list of labels"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["cat"]}, "holds no list of labels"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [True]}, "holds no list of labels"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0, 1]}, "1 images and 2 labels"),
        ({b"data": np.zeros((1, 3072), np.float32), b"labels": [0]}, "not a plain array pickle"),
        ({b"data": np.array([os.system], dtype=object), b"labels": [0]}, "not a plain array pickle"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, r"labels lie in \[10, 10\]"),
        ([1], "holds a list"),
    ],
)
def test_a_file_that_is_no_batch_is_named(folder, monkeypatch, content, words):
    (folder / "test_batch").write_bytes(pickle.dumps(content, protocol=2))
    trust(folder, monkeypatch)
    with pytest.raises(DataError, match=words):
        load_cifar10(folder)


def test_the_real_data_are_the_published_ones(real):
    splits = real(load_cifar10)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [45_000, 5_000, 10_000]
    assert splits.test.tensors[1].bincount().tolist() == [1000] * 10
    assert splits.test.tensors[1][:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]  # cat, ship, ship, airplane, frog ...
    both = splits.train.tensors[1].bincount() + splits.validation.tensors[1].bincount()
    assert both.tolist() == [5000] * 10
    inputs = splits.train.tensors[0]
    assert inputs.dtype == torch.float32
    assert float(inputs.mean((0, 2, 3)).abs().max()) < 0.01
    assert float((inputs.std((0, 2, 3)) - 1).abs().max()) < 0.01
    sky = splits.test.tensors[0][splits.test.tensors[1] == 0][:, :, :4].mean((0, 2, 3))
    assert float(sky[2]) > float(sky[0]) + 0.2  # above airplanes the sky is blue: channels are red, green, blue
