"""This file tests the model of an LSTM on integers against torch, and where such LSTMs are found in a network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dwindle.core.affine import quantize
from dwindle.core.encoding import Dense, Scaled, decode
from dwindle.core.granularity import PerChannel, PerTensor
from dwindle.network.activations import CallSite, DynamicQuantizer
from dwindle.network.capture import capture
from dwindle.network.compressed import CompressedModel
from dwindle.network.dynamic_lstm import DynamicLstm, integer_layer, quantized_dynamically
from dwindle.network.recurrent import beside_lstms, dynamic_lstm_weights, dynamic_lstms, integer_layers, lstm_calls


def _lstm(**settings: object) -> nn.LSTM:
    torch.manual_seed(0)
    return nn.LSTM(3, 4, 2, **settings)


def _arguments(lstm: nn.LSTM, x: Tensor) -> tuple[object, ...]:
    n = lstm.num_layers * (1 + lstm.bidirectional)
    batch = x.shape[0] if lstm.batch_first else x.shape[1]
    states = [torch.randn(n, batch, 4) / 2, torch.randn(n, batch, 4) / 2]
    return (
        x,
        states,
        list(lstm._flat_weights),
        lstm.bias,
        lstm.num_layers,
        0.0,
        False,
        lstm.bidirectional,
        lstm.batch_first,
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("is_integer", [(True, True), (False, True), (False, False)])
def test_it_is_an_lstm_up_to_the_rounding_of_inputs_and_states(
    bias: bool, bidirectional: bool, batch_first: bool, is_integer: tuple[bool, ...]
) -> None:
    lstm = _lstm(bias=bias, bidirectional=bidirectional, batch_first=batch_first)
    arguments = _arguments(lstm, torch.randn(5, 5, 3))
    with torch.no_grad():
        ours = DynamicLstm(is_integer)(*arguments)
        outputs, (h, c) = lstm(arguments[0], tuple(arguments[1]))
    for mine, theirs in zip(ours, (outputs, h, c), strict=True):
        assert mine.shape == theirs.shape
        gap = float((mine - theirs).abs().max())
        assert gap < (0.02 if any(is_integer) else 1e-6)
        assert (gap > 1e-5) == any(is_integer)


def test_on_the_grid_of_their_codes_inputs_and_states_stay_as_they_are() -> None:
    x = torch.arange(256.0).reshape(1, 32, 8) / 255
    start = (torch.arange(256.0).reshape(1, 32, 8) / 255, torch.zeros(1, 32, 8))
    weights = [torch.randn(32, 8), torch.randn(32, 8), torch.randn(32), torch.randn(32)]
    lstm = nn.LSTM(8, 8)
    with torch.no_grad():
        for parameter, values in zip(lstm.parameters(), weights, strict=True):
            parameter.copy_(values)
        outputs, (h, c) = lstm(x, start)
        for mine, theirs in zip(integer_layer(x, start, [weights]), (outputs, h, c), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_gradients_pass_as_if_nothing_were_rounded() -> None:
    lstm = _lstm(bidirectional=True, batch_first=True)
    x = torch.randn(4, 6, 3, requires_grad=True)
    arguments = _arguments(lstm, x)
    wanted = torch.autograd.grad(lstm(x, tuple(arguments[1]))[0].square().sum(), [x, *lstm.parameters()])
    found = torch.autograd.grad(DynamicLstm((True, True))(*arguments)[0].square().sum(), [x, *lstm.parameters()])
    for mine, theirs in zip(found, wanted, strict=True):
        assert float((mine - theirs).norm()) < 0.03 * float(theirs.norm())


def test_rounding_is_the_same_with_and_without_gradients() -> None:
    x = torch.randn(50, requires_grad=True)
    torch.testing.assert_close(quantized_dynamically(x), quantized_dynamically(x.detach()), rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad(quantized_dynamically(x).sum(), x)
    assert torch.equal(gradient, torch.ones(50))


class Two(nn.Module):
    """An LSTM of two layers and directions, one that is called twice, and one with a projection."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.LSTM(3, 4, 2, bidirectional=True, bias=False)
        self.twice = nn.LSTM(8, 8)
        self.projected = nn.LSTM(8, 8, proj_size=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.first(x)[0])[0])[0]
        return self.projected(x)[0]


def test_layers_with_integer_weights_of_their_own_are_found() -> None:
    network = Two().eval()
    captured = capture(network, torch.zeros(2, 5, 3))
    calls = lstm_calls(captured)
    assert [call.site.module for call in calls] == ["first", "twice", "twice", "projected"]
    sides = ("", "_reverse")
    assert calls[0].layers == tuple(
        tuple(f"first.weight_{kind}_l{layer}{side}" for side in sides for kind in ("ih", "hh")) for layer in range(2)
    )
    assert calls[3].layers == ()

    def found(**changes: object) -> list[tuple[bool, ...]]:
        model = CompressedModel.dense(network)
        encodings = {
            name: quantize(decode(e), n_bits=8, granularity=PerChannel(0)) if "weight" in name else e
            for name, e in model.encodings.items()
        }
        return list(integer_layers(calls, {**encodings, **changes}).values())

    assert found() == [(True, True), (False,), (False,), ()]
    name = "first.weight_hh_l1_reverse"
    values = decode(CompressedModel.dense(network).encodings[name])
    assert found(**{name: Dense(values)})[0] == (True, False)
    assert found(**{name: quantize(values, n_bits=9)})[0] == (True, False)
    assert found(**{name: quantize(values, n_bits=8, symmetric=False)})[0] == (True, False)
    assert found(**{name: quantize(values, n_bits=8, signed=False)})[0] == (True, True)
    whole = quantize(values, n_bits=8, granularity=PerTensor())
    assert found(**{name: Scaled(whole, torch.linspace(-1, 1, 16), 0)})[0] == (True, True)
    assert found(**{name: Scaled(whole, torch.ones(4), 1)})[0] == (True, False)


def test_only_sites_with_a_dynamic_quantizer_count() -> None:
    network = nn.LSTM(3, 4)
    captured = capture(network, torch.zeros(2, 5, 3))
    encodings = {
        name: quantize(parameter.detach(), n_bits=8) if parameter.ndim == 2 else Dense(parameter.detach())
        for name, parameter in network.named_parameters()
    }
    (call,) = lstm_calls(captured)
    chosen = {call.site: DynamicQuantizer(), CallSite("elsewhere", 0): DynamicQuantizer()}
    assert dynamic_lstms(captured, encodings, {}) == {}
    assert dynamic_lstms(captured, encodings, chosen) == {call.node: (True,)}
    assert dynamic_lstm_weights(captured, encodings, chosen) == {"weight_ih_l0", "weight_hh_l0"}
    assert list(beside_lstms(captured, chosen)) == [CallSite("elsewhere", 0)]
