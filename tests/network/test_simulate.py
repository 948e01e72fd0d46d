from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.core.affine import fake_quantize
from dwindle.errors import NetworkError
from dwindle.network.activations import INPUT, ActivationQuantizer, CallSite
from dwindle.network.compressed import CompressedModel
from dwindle.network.simulate import simulate

QUANTIZER = ActivationQuantizer(scale=0.1, zero_point=128)


def _rounded(x: Tensor, quantizer: ActivationQuantizer = QUANTIZER) -> Tensor:
    return fake_quantize(x, torch.tensor(quantizer.scale), quantizer.zero_point, n_bits=8, signed=False)


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        a = self.relu(self.first(x))
        return functional.relu(a + self.relu(self.first(a)))


def test_without_quantizers_it_is_the_network_in_eval_mode() -> None:
    model = CompressedModel.dense(nn.Sequential(nn.Linear(3, 3), nn.Dropout()).train())
    simulated = simulate(model, torch.randn(2, 3))
    x = torch.randn(4, 3)
    assert torch.equal(simulated(x), model.network.eval()(x))
    assert simulated is not model.network


def test_quantizers_act_at_their_sites_and_nowhere_else() -> None:
    network = Reused().eval()
    sites = (CallSite(INPUT, 0), CallSite("relu", 1), CallSite("", 0))
    model = replace(CompressedModel.dense(network), activations=dict.fromkeys(sites, QUANTIZER))
    simulated = simulate(model, torch.randn(1, 3))
    for n in (1, 2, 7):
        x = torch.randn(n, 3)
        a = functional.relu(network.first(_rounded(x)))
        expected = functional.relu(_rounded(a + _rounded(functional.relu(network.first(a)))))
        torch.testing.assert_close(simulated(x), expected, rtol=0, atol=0)


def test_one_output_of_many_is_quantized() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            out, (hidden, _) = self.lstm(x)
            return out[:, -1] + hidden[0]

    network = Two().eval()
    model = replace(CompressedModel.dense(network), activations={CallSite("lstm", 2, 1): QUANTIZER})
    x = torch.randn(2, 5, 3)
    out, (hidden, _) = network.lstm(x)
    torch.testing.assert_close(simulate(model, x)(x), out[:, -1] + _rounded(hidden[0]))


def test_the_model_is_left_as_it_was() -> None:
    model = replace(CompressedModel.dense(Reused().train()), activations={CallSite("relu", 0): QUANTIZER})
    digest = model.digest()
    simulate(model, torch.randn(2, 3))(torch.randn(2, 3))
    assert model.digest() == digest
    assert model.network.training


def test_a_quantizer_without_a_place_is_refused() -> None:
    model = replace(CompressedModel.dense(Reused()), activations={CallSite("nowhere", 3): QUANTIZER})
    with pytest.raises(NetworkError, match="no value nowhere:3:0"):
        simulate(model, torch.randn(2, 3))


def test_it_refuses_other_shapes_and_training() -> None:
    model = replace(CompressedModel.dense(Reused()), activations={CallSite("relu", 0): QUANTIZER})
    simulated = simulate(model, torch.randn(2, 3))
    with pytest.raises(NetworkError, match=r"accepts inputs of shape \(2, 3\), got \(2, 4\)"):
        simulated(torch.randn(2, 4))
    with pytest.raises(NetworkError, match="cannot be trained"):
        simulated.train()
    assert not simulated.eval().training


def test_a_graph_with_a_fixed_batch_says_so() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(2, -1) + 1

    model = replace(CompressedModel.dense(Fixed()), activations={CallSite(INPUT, 0): QUANTIZER})
    with pytest.raises(NetworkError, match=r"shape \(2, 3\), got \(4, 3\)"):
        simulate(model, torch.randn(2, 3))(torch.randn(4, 3))
