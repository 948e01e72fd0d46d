"""A job small enough to run whole in a test: 3-layer network, 192 separable examples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

MINE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset


def network(width=16):
    body = (nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(64 * width, 3))


def batchless():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 3)

        def forward(self, x):
            if x.sum() > 0:
                return self.layer(x.flatten(1))
            return self.layer(-x.flatten(1))

    return Branches()


def data(n=192, side=8, n_classes=3, largest_label=None, nan=False):
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(n) % n_classes
    inputs = torch.randn(n, 1, side, side, generator=generator)
    if n:
        inputs[torch.arange(n), 0, targets] += 3.0
    if nan:
        inputs[0] = float("nan")
    if largest_label is not None:
        targets[-1] = largest_label
    split = TensorDataset(inputs, targets)
    return split, split, split


def lonely():
    return None
"""

JOB = """
name = "tiny"
seed = 1

[network]
build = "mine.py:network"
checkpoint = "mine.safetensors"

[data]
load = "mine.py:data"
n_calibration = 32

[training]
batch_size = 32
learning_rate = 0.02

[[recipe.steps]]
type = "PruneWeights"
sparsity = 0.5

[[recipe.steps]]
type = "FineTune"
epochs = 2

[[recipe.steps]]
type = "Cluster"
codebook_size = 8

[[recipe.steps]]
type = "QuantizeStatic"

[output]
folder = "files"
latency_seconds = 0.2
"""


@pytest.fixture
def job_folder(tmp_path: Path) -> Path:
    """A folder with mine.py, mine.safetensors and job.toml."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "job.toml").write_text(JOB)
    names: dict[str, object] = {}
    exec(MINE, names)
    torch.manual_seed(0)
    save_file(names["network"]().state_dict(), tmp_path / "mine.safetensors")
    return tmp_path
