from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dwindle.core.encoding import Affine, Dense, affine_of
from dwindle.core.granularity import PerChannel, PerGroup, PerTensor
from dwindle.errors import EncodingError, RecipeError, SettingError
from dwindle.network.activations import CallSite, DynamicQuantizer
from dwindle.network.compressed import CompressedModel
from dwindle.network.select import Select
from dwindle.network.simulate import simulate
from dwindle.recipe import Recipe
from dwindle.recipe.pack import fingerprint, pack, unpack
from dwindle.technique import Context, Needs
from dwindle.techniques.quantize_dynamic import QuantizeDynamic, recurrent_weights
from dwindle.techniques.quantize_weights import QuantizeWeights

EXAMPLE = torch.zeros(2, 3, 4, 4)
CONTEXT = Context(example=EXAMPLE)


class Mixed(nn.Module):
    """A convolution, an LSTM over its rows and two linear layers, one behind a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.lstm = nn.Conv2d(3, 4, 1), nn.LSTM(16, 8, batch_first=True)
        self.up, self.norm, self.head = nn.Linear(8, 12), nn.BatchNorm1d(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(self.conv(x).flatten(2))
        return self.head(torch.relu(self.norm(self.up(x[:, -1]))))


@pytest.fixture(scope="module")
def quantized() -> CompressedModel:
    return QuantizeDynamic().apply(CompressedModel.dense(Mixed().eval()), CONTEXT)


def test_linear_layers_and_lstms_run_on_integers(quantized: CompressedModel) -> None:
    lstm = CallSite("lstm", 2)  # after its states of zeros
    assert quantized.activations == dict.fromkeys((CallSite("head", 0), lstm, CallSite("up", 0)), DynamicQuantizer())
    integer = {name for name, encoding in quantized.encodings.items() if affine_of(encoding) is not None}
    assert integer == {"up.weight", "head.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"}
    assert isinstance(quantized.encodings["conv.weight"], Dense)
    decisions = quantized.history[-1].decisions
    assert set(decisions["integer_weights"]) == integer
    assert decisions["inputs_quantized_at_run_time"] == {"up:0:0": "up.weight", "head:0:0": "head.weight"}
    assert decisions["lstm_layers_on_integers"] == {"lstm:2:0": [0]}
    assert decisions["folded"] == {"norm": "up"}
    assert decisions["notes"] == []


def test_the_record_names_the_recurrent_layers_that_compute_in_floats() -> None:
    class Left(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.lstm = nn.GRU(3, 4, batch_first=True), nn.LSTM(4, 4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(self.gru(x)[0])[0]

    context = Context(example=torch.zeros(2, 5, 3))
    chosen = Select(names=("gru.weight_*", "lstm.weight_ih_*", "lstm.weight_hh_l1"))
    after = QuantizeDynamic(select=chosen).apply(CompressedModel.dense(Left().eval()), context)
    decisions = after.history[-1].decisions
    assert decisions["lstm_layers_on_integers"] == {"lstm:2:0": [1]}
    gru, lstm = decisions["notes"]
    assert gru == (
        "gru (GRU) computes in floats with weight_ih_l0, weight_hh_l0: onnxruntime has no integer kernel for it"
    )
    assert lstm.startswith(
        "lstm (LSTM) computes in floats with weight_ih_l0: their integers are read by two layers, or"
    )


def test_the_range_is_that_of_the_whole_batch() -> None:
    network = nn.Sequential(nn.Linear(3, 2, bias=False)).eval()
    model = QuantizeDynamic().apply(CompressedModel.dense(network), Context(example=torch.zeros(2, 3)))
    answers = simulate(model, torch.zeros(2, 3))
    small = torch.tensor([[0.1, -0.2, 0.15]])
    with torch.no_grad():
        alone, beside = answers(small), answers(torch.cat([small, torch.full((1, 3), 50.0)]))[:1]
        wanted = small @ network[0].weight.T
    assert float((alone - wanted).abs().max()) < 0.005
    assert float((beside - wanted).abs().max()) > 0.02  # the grid of the batch has steps of 0.2


def test_other_readers_of_the_input_see_it_as_it_is() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) + x

    network = Skip().eval()
    nn.init.zeros_(network.linear.weight)
    model = QuantizeDynamic().apply(CompressedModel.dense(network), Context(example=torch.zeros(2, 3)))
    x = torch.randn(4, 3)
    with torch.no_grad():
        assert torch.equal(simulate(model, x)(x), x)


def test_integer_weights_are_kept_if_asked() -> None:
    once = QuantizeWeights(symmetric=False).apply(CompressedModel.dense(Mixed().eval()), CONTEXT)
    after = QuantizeDynamic(weights=None, fold_batchnorm=False).apply(once, CONTEXT)
    assert len(after.activations) == 3
    assert after.encodings["head.weight"] is once.encodings["head.weight"]
    with pytest.raises(EncodingError, match="no float values left"):
        QuantizeDynamic().apply(once, CONTEXT)
    with pytest.raises(RecipeError, match="quantized already"):
        QuantizeDynamic(weights=None).apply(after, CONTEXT)


def test_orders_are_judged_before_a_run() -> None:
    sixteen = Recipe((QuantizeWeights(n_bits=16), QuantizeDynamic(weights=None)))
    assert any("integer codes that engines compute with" in problem for problem in sixteen.check(CONTEXT))
    assert Recipe((QuantizeWeights(n_bits=8), QuantizeDynamic(weights=None))).check(CONTEXT) == []
    assert Recipe((QuantizeDynamic(), QuantizeWeights())).check(CONTEXT)
    assert QuantizeDynamic().needs == Needs.EXAMPLE


def test_selection_and_settings() -> None:
    model = CompressedModel.dense(Mixed().eval())
    after = QuantizeDynamic(weights=4, granularity=PerTensor(), select=Select(names=("head*",))).apply(model, CONTEXT)
    assert set(after.activations) == {CallSite("head", 0)}
    codes = after.encodings["head.weight"]
    assert isinstance(codes, Affine)
    assert (codes.n_bits, codes.granularity) == (4, PerTensor())
    with pytest.raises(SettingError, match="none of the selected weights belongs to a linear or recurrent"):
        QuantizeDynamic(select=Select(names=("conv.weight",))).apply(model, CONTEXT)
    with pytest.raises(SettingError, match="and is integer of 8 bits or less"):
        QuantizeDynamic(weights=None).apply(model, CONTEXT)
    for weights in (1, 9):
        with pytest.raises(SettingError, match="weights must be in"):
            QuantizeDynamic(weights=weights)
    for granularity in (PerChannel(1), PerGroup(4)):
        with pytest.raises(SettingError, match="no integer kernels"):
            QuantizeDynamic(granularity=granularity)
    with pytest.raises(RecipeError, match="one batch"):
        QuantizeDynamic().apply(model, Context())


def test_recurrent_weights_are_found_in_layers_and_cells() -> None:
    network = nn.ModuleDict({"a": nn.GRU(2, 3), "b": nn.LSTMCell(2, 3), "c": nn.Linear(2, 3)})
    assert recurrent_weights(network) == ["a.weight_ih_l0", "a.weight_hh_l0", "b.weight_ih", "b.weight_hh"]


def test_a_stage_on_disk_is_the_same_model(quantized: CompressedModel) -> None:
    tensors, state = pack(quantized)
    again = unpack(tensors, state, base=CompressedModel.dense(Mixed().eval()))
    assert again.activations == quantized.activations
    assert fingerprint(again) == fingerprint(quantized)
