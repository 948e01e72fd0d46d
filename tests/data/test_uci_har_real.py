"""This file tests the real UCI-HAR where it is on this machine: the published windows, and what its rows are."""

from __future__ import annotations

import pytest
import torch

from dwindle.data.locate import find_folder
from dwindle.data.uci_har import VALIDATION_SUBJECTS, load_uci_har
from dwindle.data.uci_har_files import complaint, read_windows


def test_the_real_data_are_the_published_ones(real):
    splits = real(load_uci_har)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [5962, 1390, 2947]
    both = splits.train.tensors[1].bincount() + splits.validation.tensors[1].bincount()
    assert both.tolist() == [1226, 1073, 986, 1286, 1374, 1407]
    assert splits.test.tensors[1].bincount().tolist() == [496, 471, 420, 491, 532, 537]
    assert splits.validation.tensors[1].bincount().min() > 190
    inputs = torch.cat([splits.train.tensors[0], splits.validation.tensors[0]])
    assert float(inputs.mean((0, 2)).abs().max()) < 0.01
    assert float((inputs.std((0, 2)) - 1).abs().max()) < 0.01


def test_channels_of_the_real_data_are_what_they_are_called(real):
    inputs, targets = real(lambda: load_uci_har(standardize=False)).test.tensors
    gravity = inputs[:, 6:] - inputs[:, :3]
    length = gravity.mean(2).norm(dim=1)
    assert float(length.mean()) == pytest.approx(1, abs=0.05)  # g
    assert float(gravity.diff(dim=2).abs().mean()) < 0.001  # gravity turns slowly, below 0.3 Hz
    assert float(inputs[:, :3].diff(dim=2).abs().mean()) > 0.01
    upright, lying = gravity[targets == 4, 0].mean(), gravity[targets == 5, 0].mean()
    assert float(upright) > 0.8 > 0.5 > float(lying)  # x points along the standing body
    energy = inputs[:, :6].square().mean((1, 2))
    assert float(energy[targets < 3].mean()) > 20 * float(energy[targets > 2].mean())


def test_people_of_the_real_data_are_in_one_set(real):
    windows = real(lambda: read_windows(find_folder("uci-har", complaint) or pytest.skip("not here")))
    train, test = (set(windows[part].subject.tolist()) for part in ("train", "test"))
    assert (len(train), len(test), len(train & test)) == (21, 9, 0)
    assert set(VALIDATION_SUBJECTS) < train
    assert not set(windows["train"].chain.tolist()) & set(windows["test"].chain.tolist())
