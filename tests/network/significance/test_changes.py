"""What a change leaves of a weight, and the settings that cannot be."""

from __future__ import annotations

import math

import pytest
import torch

from dwindle.core.granularity import PerChannel
from dwindle.errors import SettingError
from dwindle.network.significance.change import Binary, Change, Clustered, Pruned, Rounded, apply_change, squared_error
from dwindle.settings import from_plain, to_plain

CHANGES: tuple[Change, ...] = (Pruned(), Rounded(), Rounded(granularity=PerChannel(0)), Binary(), Clustered())


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_each_change_leaves_what_its_name_says():
    w = weight(8, 5, 3)
    assert int((apply_change(w, Pruned(sparsity=0.75)) == 0).sum()) == 90
    scale = float(w.abs().max()) / 7
    assert torch.allclose(apply_change(w, Rounded(n_bits=4)), (w / scale).round() * scale, atol=1e-6)
    binary, centred = apply_change(w, Binary()), w - w.mean()
    assert torch.equal(binary.sign(), centred.sign())
    assert len(binary.abs().unique()) == 1
    clustered = apply_change(w, Clustered(codebook_size=5))
    nearest = (w.flatten()[:, None] - clustered.unique()).abs().amin(1)
    assert len(clustered.unique()) == 5
    assert torch.allclose((w - clustered).abs().flatten(), nearest)


@pytest.mark.parametrize("change", CHANGES, ids=repr)
@pytest.mark.parametrize("w", [weight(3, 4), torch.zeros(2, 2), torch.full((1, 1), -3.0), weight(2, 2).double()])
def test_shape_and_type_stay_and_the_input_is_not_touched(w: torch.Tensor, change: Change):
    before = w.clone()
    changed = apply_change(torch.nn.Parameter(w), change)
    assert (changed.shape, changed.dtype, changed.requires_grad) == (w.shape, w.dtype, False)
    assert bool(changed.isfinite().all())
    assert torch.equal(w, before)
    assert squared_error(w, change) == pytest.approx(float((w.double() - changed.double()).square().sum()))


@pytest.mark.parametrize("change", CHANGES, ids=repr)
def test_settings_travel_as_plain_values(change: Change):
    assert from_plain(type(change), to_plain(change), where="change") == change


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Pruned(sparsity=1.1), "sparsity must be in"),
        (lambda: Pruned(sparsity=math.nan), "sparsity must be in"),
        (lambda: Rounded(n_bits=1), r"n_bits must be in \[2, 16\], got 1; or Binary"),
        (lambda: Clustered(codebook_size=0), "codebook_size must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, reason: str):
    with pytest.raises(SettingError, match=reason):
        make()
