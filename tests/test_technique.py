"""This file tests what a context offers and how a step is recorded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dwindle as dw
from dwindle.technique import Context, Needs, recorded
from dwindle.testing import small_context
from dwindle.version import VERSION


@pytest.mark.parametrize(
    ("context", "offers"),
    [
        (Context(), Needs.NOTHING),
        (Context(example=torch.zeros(1)), Needs.EXAMPLE),
        (Context(calibration=()), Needs.CALIBRATION),
        (
            small_context(),
            Needs.EXAMPLE | Needs.CALIBRATION | Needs.LABELS | Needs.TRAINING | Needs.REFERENCE | Needs.EARLY,
        ),
    ],
)
def test_a_context_offers_what_it_holds(context: Context, offers: Needs):
    assert context.offers == offers


def test_a_record_says_what_ran_and_what_came_out():
    model = dw.CompressedModel.dense(nn.Linear(2, 2))
    after = recorded(
        dw.Cluster(codebook_size=3), model, Context(seed=5), decisions={"found": (1, 2)}, curve=({"loss": 1.0},)
    )
    (record,) = after.history
    assert (record.technique, record.seed, record.version, record.digest) == ("Cluster", 5, VERSION, model.digest())
    assert record.settings["codebook_size"] == 3
    assert "type" not in record.settings
    assert record.decisions == {"found": [1, 2]}
    assert record.curve == ({"loss": 1.0},)
    assert model.history == ()
