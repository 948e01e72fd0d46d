"""This file tests a job that rewinds: the early weights come from a checkpoint of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dwindle.errors import CheckpointError, RecipeError
from dwindle.job.check import check_job
from dwindle.job.inputs import context_of
from dwindle.job.load import load_job
from dwindle.network.compressed import CompressedModel

REWINDS = """sparsity = 0.5
epochs = 1
rewind = {type = "Rewind", rounds = 2}
"""


def halved(tensor: torch.Tensor) -> torch.Tensor:
    return tensor / 2 if tensor.is_floating_point() else tensor


@pytest.fixture
def rewinding(job_folder: Path) -> Path:
    """A job whose pruning rewinds, with early weights in early.safetensors."""
    job = (job_folder / "job.toml").read_text()
    job = job.replace("sparsity = 0.5\n", REWINDS)
    job = job.replace(
        'checkpoint = "mine.safetensors"\n', 'checkpoint = "mine.safetensors"\nearly = "early.safetensors"\n'
    )
    (job_folder / "job.toml").write_text(job)
    trained = load_file(job_folder / "mine.safetensors")
    save_file({name: halved(tensor) for name, tensor in trained.items()}, job_folder / "early.safetensors")
    return job_folder / "job.toml"


def test_early_weights_are_offered(rewinding: Path) -> None:
    job = load_job(rewinding)
    check_job(job)
    early = context_of(job).early
    assert early is not None
    for name, tensor in early.state_dict().items():
        assert torch.equal(tensor, halved(job.network.state_dict()[name]))
    step = job.recipe.steps[0]
    after = step.apply(CompressedModel.dense(job.network), context_of(job))
    assert after.history[-1].settings["rewind"] == {"type": "Rewind", "to": "weights", "rounds": 2}
    assert len(after.history[-1].curve) == 2


def test_without_them_the_check_says_so(rewinding: Path) -> None:
    rewinding.write_text(rewinding.read_text().replace('early = "early.safetensors"\n', ""))
    with pytest.raises(RecipeError, match=r"needs EARLY, .*\[network\] early = a checkpoint"):
        check_job(load_job(rewinding))


def test_a_wrong_file_is_named(rewinding: Path) -> None:
    (rewinding.parent / "early.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"early\.safetensors cannot be read"):
        load_job(rewinding)
