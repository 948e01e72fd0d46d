from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.core.encoding import (
    Affine,
    Codebook,
    Dense,
    Encoding,
    Scaled,
    Sparse,
    affine_of,
    codebook_of,
    decode,
    describe,
)
from dwindle.core.granularity import PerChannel, PerGroup, PerTensor
from dwindle.core.ranges import Calibration, Method, MinMax, Mse, Percentile
from dwindle.errors import DataError, EncodingError, NetworkError, RecipeError, SelectionError, SettingError
from dwindle.network.activations import CallSite
from dwindle.network.compressed import CompressedModel
from dwindle.network.select import Select
from dwindle.network.simulate import simulate
from dwindle.recipe import Recipe
from dwindle.settings import from_plain, to_plain
from dwindle.technique import Context, Needs, Technique, Trait
from dwindle.techniques.quantize_static import QuantizeStatic
from dwindle.techniques.quantize_weights import QuantizeWeights
from dwindle.zoo.resnet18_tian import resnet18_tian


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(6, 4)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        nn.init.normal_(self.norm.running_mean)
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        a = self.relu(self.norm(self.conv(x)))
        b = self.relu(self.depthwise(a) + a)
        return self.head(functional.adaptive_avg_pool2d(self.pool(b), 1).flatten(1))


def _context(seed: int = 0) -> Context:
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(16, 2, 8, 8, generator=generator) for _ in range(3)]
    return Context(example=torch.zeros(1, 2, 8, 8), calibration=batches)


def _relative_error(model: CompressedModel, network: nn.Module) -> float:
    x = torch.randn(32, 2, 8, 8)
    with torch.no_grad():
        wanted, found = network.eval()(x), simulate(model, x[:1])(x)
    return math.sqrt(float((found - wanted).square().mean() / wanted.square().mean()))


@pytest.mark.parametrize("method", [MinMax(), Percentile(), Mse()])
def test_the_quantized_network_answers_nearly_as_before(method: Method) -> None:
    network = Small()
    after = QuantizeStatic(calibration=Calibration(method=method)).apply(CompressedModel.dense(network), _context())
    assert 0 < _relative_error(after, network) < 0.05
    assert {str(site) for site in after.activations} == {
        "<input>:0:0", "relu:0:0", "depthwise:0:0", "relu:1:0", "pool:0:0", ":1:0", ":2:0",
    }  # fmt: skip
    assert after.activations[CallSite("pool", 0)] == after.activations[CallSite("relu", 1)]


def test_weights_become_codes_symmetric_about_zero_for_each_output() -> None:
    after = QuantizeStatic().apply(CompressedModel.dense(Small()), _context())
    for name in ("conv.weight", "depthwise.weight", "head.weight"):
        codes = affine_of(after.encodings[name])
        assert isinstance(codes, Affine)
        assert (codes.n_bits, codes.signed, codes.granularity) == (8, True, PerChannel(0))
        assert int(codes.zero_point.abs().max()) == 0
        assert codes.codes.flatten(1).abs().amax(1).tolist() == [127] * len(codes.codes)
    assert {describe(after.encodings[name]) for name in after.encodings if name.endswith("bias")} == {"Dense"}
    assert not any(name.startswith("norm") for name in after.encodings)
    state = after.network.state_dict()
    assert all(torch.equal(decode(e), state[name]) for name, e in after.encodings.items())


def test_the_input_model_is_untouched_and_the_outcome_repeats() -> None:
    model = CompressedModel.dense(Small())
    digest = model.digest()
    first, second = (QuantizeStatic().apply(model, _context()) for _ in range(2))
    assert first.digest() == second.digest() == first.history[-1].digest
    assert model.digest() == digest
    assert model.activations == {}
    assert len(first.history) == len(model.history) + 1


def test_decisions_tell_ranges_and_what_was_clipped() -> None:
    after = QuantizeStatic(calibration=Calibration(method=Percentile(90.0))).apply(
        CompressedModel.dense(Small()), _context()
    )
    decisions = after.history[-1].decisions
    assert decisions["folded"] == {"norm": "conv"}
    assert decisions["shared"] == {"pool:0:0": "relu:1:0", ":2:0": ":1:0"}
    assert decisions["integer_weights"] == ["conv.weight", "depthwise.weight", "head.weight"]
    entry = decisions["ranges"]["<input>:0:0"]
    assert entry["clipped_fraction"] == pytest.approx(0.2, abs=0.01)
    assert entry["low"] < -1 < 1 < entry["high"]
    assert 0 < entry["spread"] < 1
    spreads = {site: entry["spread"] for site, entry in decisions["ranges"].items()}
    worst = decisions["calibration"]["least_stable"]
    assert decisions["calibration"] == {
        "n_examples": 48, "least_stable": worst, "largest_spread": max(spreads.values()),
    }  # fmt: skip
    assert spreads[worst] == max(spreads.values())
    assert "hold 48 examples, fewer than n = 512" in decisions["notes"][0]


@pytest.mark.parametrize("scale", ["float", "power_of_two"])
def test_sixteen_bit_activations_are_signed_around_zero_and_lose_less(scale: Any) -> None:
    network = Small()
    model, context = CompressedModel.dense(network), _context()
    narrow = QuantizeStatic(weights=8).apply(model, context)
    wide = QuantizeStatic(weights=8, activations=16, scale=scale).apply(model, context)
    fixed = QuantizeStatic(weights=16, activations=16, scale=scale).apply(model, context)
    assert set(wide.activations) == set(narrow.activations)
    assert {(q.zero_point, q.n_bits, q.signed) for q in wide.activations.values()} == {(0, 16, True)}
    errors = [_relative_error(found, network) for found in (fixed, wide, narrow)]
    assert errors[0] < 0.002
    assert errors[0] < errors[1] < 2 * errors[2]
    codes = affine_of(fixed.encodings["conv.weight"])
    assert codes is not None
    assert codes.n_bits == 16
    if scale == "power_of_two":
        scales = [*codes.scale.tolist(), *(q.scale for q in fixed.activations.values())]
        assert {math.frexp(value)[0] for value in scales} == {0.5}


def test_widths_that_engines_cannot_meet_are_refused_before_a_run() -> None:
    context = _context()
    wide = QuantizeWeights(n_bits=16)
    (problem,) = Recipe((wide, QuantizeStatic(weights=None))).check(context)
    assert "needs a model that has integer codes that engines compute with (8 bits or less" in problem
    assert Recipe((QuantizeWeights(granularity=PerGroup(4)), QuantizeStatic(weights=None))).check(context)
    steps = Recipe((wide, QuantizeStatic(weights=None, activations=16)))
    assert steps.check(context) == []
    after = steps.run(CompressedModel.dense(Small()), context)
    assert len(after.activations) == 7
    model = wide.apply(CompressedModel.dense(Small()), context)
    assert Recipe((QuantizeStatic(weights=None),)).check(context, model=model)


@pytest.mark.parametrize("quantize_output", [False, True])
def test_logits_stay_float_unless_asked(quantize_output: bool) -> None:
    after = QuantizeStatic(quantize_output=quantize_output).apply(CompressedModel.dense(Small()), _context())
    assert (CallSite("head", 0) in after.activations) == quantize_output


def test_batch_norms_stay_if_asked() -> None:
    network = Small()
    technique = QuantizeStatic(fold_batchnorm=False)
    after = technique.apply(CompressedModel.dense(network), _context())
    assert after.edits == ()
    assert CallSite("conv", 0) in after.activations
    assert _relative_error(after, network) < 0.06
    assert Trait.FOLDED not in technique.effect.adds
    assert Trait.FOLDED in QuantizeStatic().effect.adds


def _clustered(values: Tensor) -> Codebook:
    return Codebook((values > 0).to(torch.uint8), Dense(torch.tensor([-0.3, 0.4])))


def _pruned(values: Tensor) -> Tensor:
    return values.abs() > values.abs().median()


@pytest.mark.parametrize("which", range(3))
def test_structure_is_kept(which: int) -> None:
    model = CompressedModel.dense(Small())
    values = decode(model.encodings["conv.weight"])
    encoding: Encoding = [
        Sparse(_pruned(values), Dense(values)),
        _clustered(values),
        Sparse(_pruned(values), _clustered(values)),
    ][which]
    before = model.with_encodings({"conv.weight": encoding, "head.weight": _clustered(torch.randn(4, 6))})
    after = QuantizeStatic().apply(before, _context())
    found = after.encodings["conv.weight"]
    inside = encoding.support if isinstance(encoding, Sparse) else torch.ones_like(values, dtype=torch.bool)
    assert int((decode(found) != 0)[~inside].sum()) == 0
    codebook, earlier = codebook_of(found), codebook_of(encoding)
    if earlier is None:
        assert describe(found) == "Sparse(Affine(8 bit))"
    else:
        assert isinstance(found, Scaled)
        assert codebook is not None
        assert codebook.indices is earlier.indices
        assert isinstance(codebook.centroids, Affine)
        assert codebook.centroids.granularity == PerTensor()
    assert _relative_error(after, before.network) < 0.06


def test_integer_weights_are_kept_with_weights_none() -> None:
    dense = CompressedModel.dense(Small())
    context = _context()
    once = QuantizeStatic(fold_batchnorm=False).apply(dense, context)
    integer = replace(once, activations={})
    again = QuantizeStatic(weights=None).apply(integer, context)
    codes = affine_of(again.encodings["depthwise.weight"])
    assert codes is integer.encodings["depthwise.weight"]
    assert describe(again.encodings["conv.weight"]) == "Scaled(Affine(8 bit))"
    assert _relative_error(again, integer.network) < 0.05


def test_float_weights_with_weights_none_are_refused() -> None:
    with pytest.raises(SettingError, match="use weights=8"):
        QuantizeStatic(weights=None).apply(CompressedModel.dense(Small()), _context())


def test_quantizing_twice_is_one_clear_error() -> None:
    context = _context()
    once = QuantizeStatic().apply(CompressedModel.dense(Small()), context)
    with pytest.raises(RecipeError, match="activations are quantized already"):
        QuantizeStatic(weights=None).apply(once, context)
    with pytest.raises(EncodingError, match=r"'conv.weight': .*no float values left"):
        QuantizeStatic().apply(replace(once, activations={}), context)


def test_an_excluded_layer_stays_float_with_its_output() -> None:
    after = QuantizeStatic(select=Select(exclude=("depthwise.*",))).apply(CompressedModel.dense(Small()), _context())
    assert isinstance(after.encodings["depthwise.weight"], Dense)
    assert CallSite("depthwise", 0) not in after.activations
    assert CallSite("conv", 0) not in after.activations


def test_unsupported_layers_are_left_float() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 4)
            self.lstm = nn.LSTM(4, 5, batch_first=True)
            self.head = nn.Linear(5, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.lstm(self.embedding(tokens))[0])

    context = Context(example=torch.zeros(2, 6, dtype=torch.int64), calibration=[torch.randint(0, 10, (4, 6))])
    after = QuantizeStatic().apply(CompressedModel.dense(Tagger()), context)
    assert [name for name, e in after.encodings.items() if affine_of(e)] == ["head.weight"]
    assert set(after.activations) == {CallSite("lstm", 2)}


def test_it_says_what_it_needs_and_does() -> None:
    technique: Technique = QuantizeStatic()
    assert technique.needs == Needs.EXAMPLE | Needs.CALIBRATION
    assert technique.effect.adds == Trait.INTEGER | Trait.KERNEL | Trait.QUANTIZED_ACTIVATIONS | Trait.FOLDED
    assert technique.effect.refused == Trait.INTEGER | Trait.QUANTIZED_ACTIVATIONS
    assert QuantizeStatic(weights=None).effect.refused == Trait.QUANTIZED_ACTIVATIONS


@pytest.mark.parametrize(
    "technique",
    [
        QuantizeStatic(),
        QuantizeStatic(calibration=Calibration(n=9, method=Percentile(99.0)), granularity=PerTensor(), weights=4),
    ],
)
def test_settings_survive_a_round_trip(technique: QuantizeStatic) -> None:
    assert from_plain(QuantizeStatic, to_plain(technique), where="here") == technique


def test_per_tensor_weights_and_four_bits() -> None:
    technique = QuantizeStatic(granularity=PerTensor(), weights=4)
    codes = affine_of(technique.apply(CompressedModel.dense(Small()), _context()).encodings["conv.weight"])
    assert codes is not None
    assert (codes.n_bits, codes.granularity) == (4, PerTensor())


def test_settings_that_cannot_work_are_refused() -> None:
    for weights, activations in ((1, 8), (9, 8), (1, 16), (17, 16)):
        with pytest.raises(SettingError, match="weights must be in"):
            QuantizeStatic(weights=weights, activations=activations)
    with pytest.raises(SettingError, match="activations must be 8 or 16"):
        QuantizeStatic(activations=4)
    with pytest.raises(SettingError, match="no integer kernels for PerGroup"):
        QuantizeStatic(granularity=PerGroup(4))
    with pytest.raises(SettingError, match=r"no integer kernels for PerChannel\(axis=1\); use PerChannel\(0\)"):
        QuantizeStatic(granularity=PerChannel(1))


def test_missing_or_wrong_data_is_refused() -> None:
    model = CompressedModel.dense(Small())
    with pytest.raises(RecipeError, match="needs Context"):
        QuantizeStatic().apply(model, Context())
    labelled: Any = [(torch.zeros(1, 2, 8, 8), torch.zeros(1))]
    with pytest.raises(DataError, match="without labels"):
        QuantizeStatic().apply(model, replace(_context(), calibration=labelled))
    with pytest.raises(SelectionError, match="matches no weight"):
        QuantizeStatic(select=Select(names=("nothing*",))).apply(model, _context())
    with pytest.raises(NetworkError, match="does not run on the example"):
        QuantizeStatic().apply(model, replace(_context(), example=torch.zeros(1, 3, 8, 8)))
    with pytest.raises(NetworkError, match=r"float64, but codes are decoded in float32"):
        QuantizeStatic().apply(
            CompressedModel.dense(Small().double()), replace(_context(), example=torch.zeros(1, 2, 8, 8).double())
        )


@pytest.mark.slow
def test_a_real_network_from_end_to_end() -> None:
    network = resnet18_tian(in_channels=1)
    x = torch.randn(4, 1, 33, 33)
    after = QuantizeStatic(calibration=Calibration(method=MinMax())).apply(
        CompressedModel.dense(network), Context(example=x, calibration=[x])
    )
    assert len(after.edits) == 17
    assert len(after.activations) == 31
    with torch.no_grad():
        wanted, found = network.eval()(x), simulate(after, x)(x)
    assert float((found - wanted).norm() / wanted.norm()) < 0.1
