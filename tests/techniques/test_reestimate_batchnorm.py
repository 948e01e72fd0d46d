from __future__ import annotations

import pytest
import torch
from torch import nn

from dwindle.core.encoding import decode
from dwindle.errors import DataError, NetworkError, RecipeError
from dwindle.network.compressed import CompressedModel
from dwindle.technique import Context, Needs, Technique, Trait
from dwindle.techniques.reestimate_batchnorm import ReestimateBatchNorm


def _network() -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(0.5), nn.BatchNorm2d(3, momentum=0.3), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)
    )


def _context(n_batches: int = 4) -> Context:
    return Context(
        example=torch.zeros(1, 3, 4, 4), calibration=[2 * torch.randn(8, 3, 4, 4) + 1 for _ in range(n_batches)]
    )


def test_statistics_become_the_average_over_the_batches() -> None:
    context = _context()
    after = ReestimateBatchNorm().apply(CompressedModel.dense(_network()), context)
    batches = list(context.calibration or ())
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    variances = torch.stack([batch.transpose(0, 1).flatten(1).var(1) for batch in batches]).mean(0)
    torch.testing.assert_close(decode(after.encodings["1.running_mean"]), means)
    torch.testing.assert_close(decode(after.encodings["1.running_var"]), variances)
    assert int(decode(after.encodings["4.num_batches_tracked"])) == 4
    assert after.history[-1].decisions == {"batchnorms": ["1", "4"], "n_batches": 4}


def test_nothing_else_changes() -> None:
    network = _network().train()
    network[4].eval()
    model = CompressedModel.dense(network)
    digest = model.digest()
    after = ReestimateBatchNorm().apply(model, _context())
    assert model.digest() == digest
    changed = {n for n, e in after.encodings.items() if not torch.equal(decode(e), decode(model.encodings[n]))}
    assert changed == {
        f"{norm}.{key}" for norm in (1, 4) for key in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert [m.training for m in after.network.modules()] == [m.training for m in network.modules()]
    assert after.network[1].momentum == 0.3
    state = after.network.state_dict()
    assert all(torch.equal(decode(e), state[n]) for n, e in after.encodings.items())


def test_the_same_data_gives_the_same_digest() -> None:
    model, context = CompressedModel.dense(_network()), _context()
    assert ReestimateBatchNorm().apply(model, context).digest() == ReestimateBatchNorm().apply(model, context).digest()


def test_it_says_what_it_needs_and_refuses() -> None:
    technique: Technique = ReestimateBatchNorm()
    assert technique.needs == Needs.EXAMPLE | Needs.CALIBRATION
    assert technique.effect.refused == Trait.FOLDED | Trait.QUANTIZED_ACTIVATIONS
    assert technique.effect.adds == Trait.NOTHING


def test_a_network_without_batch_norms_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))
    with pytest.raises(NetworkError, match="no batch norm with running statistics"):
        ReestimateBatchNorm().apply(CompressedModel.dense(network), _context())


def test_data_is_needed_and_checked() -> None:
    model = CompressedModel.dense(_network())
    with pytest.raises(RecipeError, match="needs Context"):
        ReestimateBatchNorm().apply(model, Context())
    with pytest.raises(DataError, match="calibration is empty"):
        ReestimateBatchNorm().apply(model, _context(0))


def test_a_batch_too_small_for_statistics_is_refused() -> None:
    model = CompressedModel.dense(nn.Sequential(nn.BatchNorm1d(3)))
    with pytest.raises(DataError, match=r"batch 0, float32 \(1, 3\): Expected more than 1 value"):
        ReestimateBatchNorm().apply(model, Context(example=torch.zeros(1, 3), calibration=[torch.zeros(1, 3)]))
