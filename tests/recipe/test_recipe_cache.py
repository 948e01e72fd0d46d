"""This file tests what makes a stage another stage, beyond its step and its model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

import dwindle as dw
from dwindle.errors import DataError
from dwindle.testing import small_context, small_network


def test_labels_among_the_calibration_batches_are_said_to_be_labels(tmp_path: Path) -> None:
    context = small_context()
    labelled: Any = [(batch, torch.zeros(len(batch))) for batch in context.calibration or ()]
    context = replace(context, calibration=labelled, workdir=tmp_path)
    with pytest.raises(DataError, match="without labels"):
        dw.Recipe((dw.QuantizeStatic(),)).run(dw.CompressedModel.dense(small_network()), context)


@pytest.mark.parametrize(("patience", "was_cached"), [(1, False), (None, True)])
def test_validation_data_count_where_they_choose_the_epoch(
    tmp_path: Path, patience: int | None, *, was_cached: bool
) -> None:
    def run(target: int) -> bool:
        train = TensorDataset(torch.zeros(8, 1, 8, 8), torch.arange(8) % 4)
        validation = TensorDataset(torch.zeros(4, 1, 8, 8), torch.full((4,), target))
        trainer = dw.FabricTrainer(
            train=train, validation=validation, batch_size=4, patience=patience, accelerator="cpu"
        )
        cached: list[bool] = []
        dw.Recipe((dw.FineTune(epochs=1),)).run(
            dw.CompressedModel.dense(small_network()),
            dw.Context(workdir=tmp_path, trainer=trainer),
            on_stage=lambda stage: cached.append(stage.was_cached),
        )
        return cached[0]

    assert not run(0)
    assert run(0)
    assert run(1) is was_cached


def test_training_does_not_follow_quantized_activations_even_after_densify() -> None:
    recipe = dw.Recipe((dw.QuantizeStatic(), dw.Densify(), dw.FineTune(epochs=1)))
    (problem,) = recipe.check(small_context())
    assert "cannot follow step 1" in problem
    assert "quantized activations" in problem
