"""This file tests weights of 1 to 4 bits: what is trained, what stays as it is, and how many bits files really hold."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import dwindle as dw
from dwindle.container.inspect import inspect_file
from dwindle.core.encoding import Affine, affine_of, codebook_of, decode, describe, support_of
from dwindle.core.granularity import PerChannel, PerGroup, PerTensor
from dwindle.errors import EncodingError, NetworkError, RecipeError, SelectionError, SettingError
from dwindle.exporters.graph import build_graph
from dwindle.exporters.native import NativeExporter
from dwindle.exporters.onnx import OnnxExporter
from dwindle.network.activations import CallSite, LevelQuantizer
from dwindle.network.compressed import CompressedModel
from dwindle.network.simulate import simulate
from dwindle.recipe import Recipe
from dwindle.recipe.pack import fingerprint, pack, unpack
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.settings import from_plain, to_plain
from dwindle.technique import Context, Needs, Trait
from dwindle.techniques.binarize import Binarize
from dwindle.testing.small import PlainTrainer, small_context

FLOAT_BOUND = 2e-5


class Deep(nn.Module):
    """Four layers: a first and a last one, and between them a convolution with a batch norm and a linear layer."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(1, width, 3, stride=2, padding=1), nn.BatchNorm2d(width)
        self.conv, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.linear, self.last = nn.Linear(width * 16, 32), nn.Linear(32, 4)
        nn.init.normal_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.first(x)))
        x = torch.tanh(self.norm2(self.conv(x)) + x)
        return self.last(torch.relu(self.linear(x.flatten(1))))


MIDDLE = ("conv.weight", "linear.weight")


def dense(width: int = 8) -> CompressedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CompressedModel.dense(Deep(width).eval())


STARTS = {
    "dense": dense,
    "pruned": lambda: dw.PruneWeights(sparsity=0.5).apply(dense(), Context()),
    "clustered": lambda: dw.Cluster(codebook_size=6).apply(dense(), Context()),
    "pruned and clustered": lambda: dw.Cluster(codebook_size=6).apply(STARTS["pruned"](), Context()),
    "half": lambda: dw.CastHalf().apply(dense(), Context()),
    "folded": lambda: dw.FoldBatchNorm().apply(STARTS["pruned and clustered"](), small_context()),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Watching(PlainTrainer):
    """A trainer that keeps what the network answered at the end."""

    seen: list[Tensor] = field(default_factory=list[Tensor])

    def __call__(self, network: nn.Module, **arguments: Any) -> Any:
        curve = super().__call__(network, **arguments)
        was_training = network.training
        with torch.no_grad():
            self.seen.append(network.eval()(self.inputs))
        network.train(was_training)
        return curve


def watched() -> tuple[Context, Watching]:
    context = small_context()
    trainer = Watching(inputs=context.trainer.inputs, targets=context.trainer.targets)
    return replace(context, trainer=trainer), trainer


def answers(model: CompressedModel, x: Tensor) -> Tensor:
    with torch.no_grad():
        return simulate(model, x[:2])(x)


SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "thesis": {"spread": "none", "epochs": 0.4},
    "2 bits": {"n_bits": 2, "factor": "least_squares", "gradient": "own_weight"},
    "restricted": {"n_bits": 2, "levels": "restricted", "granularity": PerChannel(0)},
    "4 bits": {"n_bits": 4, "is_centred": False, "freeze_after": 0.0},
    "weights alone": {"activations": False, "granularity": PerChannel(0)},
}


QUICK = {("default", "half"), ("default", "folded"), *((settings, "pruned and clustered") for settings in SETTINGS)}


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        pytest.param(*which, marks=() if which in QUICK else pytest.mark.slow)
        for which in itertools.product(SETTINGS, STARTS)
    ],
)
def test_what_is_trained_is_what_the_model_answers(settings: str, start: str):
    context, trainer = watched()
    technique, model = Binarize(**SETTINGS[settings]), STARTS[start]()
    after = technique.apply(model, context)
    most = 2**technique.n_bits - (technique.levels == "restricted")
    for name in MIDDLE:
        codes, book = affine_of(after.encodings[name]), codebook_of(after.encodings[name])
        assert isinstance(codes, Affine)
        assert book.codebook_size <= most
        support = support_of(model.encodings[name])
        if support is not None:
            assert not decode(after.encodings[name])[~support].any()
        earlier = codebook_of(model.encodings[name])
        if earlier is not None:
            assert book.codebook_size <= earlier.codebook_size
    for name in ("first.weight", "last.weight"):  # structure and floats of the ends are as before, trained
        assert affine_of(after.encodings[name]) is None
        assert (support_of(after.encodings[name]) is None) == (support_of(model.encodings[name]) is None)
    # The graph in training has batch norms where the model has factors and biases; a value next to the border between
    # two levels may fall on the other side. Numbers of float16 are rounded at the end.
    found, wanted = answers(after, trainer.inputs), trainer.seen[-1]
    gap = (found - wanted).abs() / wanted.abs().max()
    assert float(gap.median()) < (2e-2 if start == "half" else 1e-5)
    assert float((gap > 1e-4).float().mean()) < 0.15 or start == "half"


@pytest.mark.parametrize("activations", [True, False])
def test_the_first_and_the_last_layer_stay_unless_told(activations: bool):
    after = Binarize(activations=activations).apply(dense(), small_context())
    assert after.history[-1].decisions["weights"] == list(MIDDLE)
    whole = Binarize(activations=activations, keeps_ends=False).apply(dense(), small_context())
    assert whole.history[-1].decisions["weights"] == ["first.weight", *MIDDLE, "last.weight"]
    some = Binarize(activations=activations, select=dw.Select(exclude=("first*",))).apply(dense(), small_context())
    assert some.history[-1].decisions["weights"] == ["linear.weight"]  # ends of what is selected
    for model in (after, whole, some):
        names = model.history[-1].decisions["weights"]
        sites = {CallSite(name.removesuffix(".weight"), 0) for name in names}
        assert set(model.activations) == (sites if activations else set())
        assert {name for name, e in model.encodings.items() if affine_of(e) is not None} == set(names)


def test_inputs_are_rounded_to_the_width_of_the_layer_and_norms_are_folded():
    after = Binarize(n_bits=3, levels="restricted").apply(dense(), small_context())
    assert set(after.activations.values()) == {LevelQuantizer(n_bits=3, kind="restricted")}
    assert {edit.batchnorm for edit in after.edits} == {"norm1", "norm2"}
    alone = Binarize(activations=False).apply(dense(), small_context())
    assert alone.edits == ()
    assert alone.activations == {}


def test_nothing_else_of_the_network_reads_the_rounded_inputs():
    """The residual sum reads the value in full, the convolution beside it the sign."""
    model = Binarize(select=dw.Select(names=("conv*",)), keeps_ends=False).apply(dense(), small_context())
    network, x = model.network, small_context().example
    with torch.no_grad():
        h = torch.relu(network.norm1(network.first(x)))
        y = torch.tanh(network.norm2(network.conv(h.sign())) + h)
        wanted = network.last(torch.relu(network.linear(y.flatten(1))))
    torch.testing.assert_close(answers(model, x), wanted)


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        ("default", "dense"),
        ("default", "pruned and clustered"),
        ("restricted", "dense"),
        ("weights alone", "folded"),
        *(pytest.param(settings, "dense", marks=pytest.mark.slow) for settings in ("thesis", "2 bits", "4 bits")),
        pytest.param("2 bits", "pruned", marks=pytest.mark.slow),
    ],
)
def test_files_answer_like_the_model(settings: str, start: str, tmp_path: Path):
    context = small_context()
    after = Binarize(**SETTINGS[settings]).apply(STARTS[start](), context)
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    wanted, graph = answers(after, x).numpy(), build_graph(after, context.example)
    for exporter in (OnnxExporter(), NativeExporter()):
        artifact = exporter.export(after, context.example, tmp_path / f"model.{exporter.format}", graph=graph)
        with OnnxRuntime().load(artifact) as session:
            (found,) = session.run(x.numpy())
        assert float(np.abs(found - wanted).max() / np.abs(wanted).max()) <= FLOAT_BOUND


@pytest.mark.parametrize(
    ("n_bits", "granularity"),
    [
        (1, PerTensor()),
        (2, PerChannel(0)),
        pytest.param(1, PerChannel(0), marks=pytest.mark.slow),
        pytest.param(2, PerTensor(), marks=pytest.mark.slow),
    ],
)
def test_files_hold_one_or_two_bits_for_each_weight(n_bits: int, granularity: Any, tmp_path: Path):
    context, model = small_context(), dense(width=24)
    after = Binarize(n_bits=n_bits, granularity=granularity, epochs=0.4).apply(model, context)
    graph = build_graph(after, context.example)
    native = NativeExporter().export(after, context.example, tmp_path / "model.dwn", graph=graph)
    plain = OnnxExporter().export(after, context.example, tmp_path / "model.onnx", graph=graph)
    sizes = {tensor.name: tensor for tensor in inspect_file(native.path).tensors}
    initializers = {tensor.name: tensor for tensor in onnx.load(plain.path).graph.initializer}
    for name in MIDDLE:
        n = decode(after.encodings[name]).numel()
        n_factors = len(after.encodings[name].factor) if "Scaled" in describe(after.encodings[name]) else 0
        assert sizes[name].encoded_bytes <= n * n_bits / 8 * 1.05 + 4 * n_factors + 64
        packed = initializers[f"{name}/indices/packed"]
        assert packed.data_type == onnx.TensorProto.UINT8
        assert len(packed.raw_data) == math.ceil(n * n_bits / 8)
        others = [t for key, t in initializers.items() if key.startswith(f"{name}/") and t is not packed]
        assert sum(len(t.raw_data) for t in others) <= 4 * n_factors + 150


def test_it_learns():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(128, 1, 8, 8, generator=generator)
    targets = (inputs.mean((1, 2, 3)) > 0).long()
    data = TensorDataset(inputs, targets)
    trainer = dw.FabricTrainer(train=data, batch_size=32, accelerator="cpu", learning_rate=0.05)
    context = replace(small_context(), trainer=trainer)
    for settings in ({}, {"n_bits": 2, "factor": "least_squares", "gradient": "own_weight"}):
        after = Binarize(epochs=12, **settings).apply(dense(), context)
        losses = [figures["loss"] for figures in after.history[-1].curve]
        assert losses[-1] < 0.7 * losses[0]
        assert float((answers(after, inputs).argmax(1) == targets).float().mean()) > 0.75


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("start", "activations"), [("dense", True), ("pruned and clustered", False)])
def test_a_killed_training_goes_on_as_if_never_cut(start: str, activations: bool, tmp_path: Path):
    def kill(_: str, step: int, __: int) -> None:
        if step == 7:
            raise KilledError

    def trainer(workdir: Path | None, report: Any = None) -> dw.FabricTrainer:
        data = TensorDataset(small_context().trainer.inputs, small_context().trainer.targets)
        return dw.FabricTrainer(
            train=data, batch_size=8, workdir=workdir, accelerator="cpu", learning_rate=0.1, report_progress=report
        )

    model, technique, context = STARTS[start](), Binarize(epochs=4, activations=activations), small_context()
    uncut = technique.apply(model, replace(context, trainer=trainer(None)))
    with pytest.raises(KilledError):
        technique.apply(model, replace(context, trainer=trainer(tmp_path, kill)))
    went_on: list[int] = []
    resumed = technique.apply(model, replace(context, trainer=trainer(tmp_path, lambda _, s, __: went_on.append(s))))
    assert went_on[0] == 6
    assert resumed.digest() == uncut.digest()


def test_a_model_survives_being_packed():
    for technique in (Binarize(), Binarize(granularity=PerChannel(0), activations=False)):
        after = technique.apply(dense(), small_context())
        tensors, state = pack(after)
        again = unpack(tensors, json.loads(json.dumps(state)), base=dense())
        assert fingerprint(again) == fingerprint(after)
        assert again.activations == after.activations


def test_too_few_layers_are_one_clear_error():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    with pytest.raises(SelectionError, match=r"of 2 selected weights.*none is left.*keeps_ends=False"):
        Binarize().apply(CompressedModel.dense(network), small_context())
    after = Binarize(keeps_ends=False).apply(CompressedModel.dense(network), small_context())
    assert after.history[-1].decisions["weights"] == ["1.weight", "3.weight"]

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x[:, 0])[0][:, -1]

    with pytest.raises(SelectionError, match="of 0 selected weights of convolutions and linear layers none is left"):
        Binarize(keeps_ends=False).apply(CompressedModel.dense(Recurrent().eval()), small_context())


def test_missing_or_wrong_data_is_refused():
    context, model = small_context(), dense()
    for missing in ({"trainer": None}, {"example": None}):
        with pytest.raises(RecipeError, match="give the context a trainer and an example"):
            Binarize().apply(model, replace(context, **missing))
    with pytest.raises(SelectionError, match="matches no weight"):
        Binarize(select=dw.Select(names=("nothing*",))).apply(model, context)
    with pytest.raises(RecipeError, match="teacher"):
        Binarize(distillation=dw.Distillation()).apply(model, context)
    double = CompressedModel.dense(Deep().double().eval())
    with pytest.raises(NetworkError, match="float64, but levels are decoded in float32"):
        Binarize().apply(double, replace(context, example=context.example.double()))


def test_nan_in_the_training_data_is_one_clear_error():
    context = small_context()
    inputs = context.trainer.inputs.clone()
    inputs[3] = math.nan
    trainers = (
        dw.FabricTrainer(train=TensorDataset(inputs, context.trainer.targets), batch_size=8, accelerator="cpu"),
        PlainTrainer(inputs=inputs, targets=context.trainer.targets),
    )
    for trainer in trainers:
        with pytest.raises(NetworkError, match="NaN"):
            Binarize().apply(dense(), replace(context, trainer=trainer))


def test_what_is_quantized_already_is_refused():
    context = small_context()
    once = Binarize().apply(dense(), context)
    with pytest.raises(RecipeError, match="2 activations are quantized already; do it once"):
        Binarize(activations=False).apply(once, context)
    integer = dw.QuantizeWeights().apply(dense(), context)
    with pytest.raises(EncodingError, match=r"'conv.weight' has no float values left to train; put this step before"):
        Binarize().apply(integer, context)


def test_other_layers_may_have_other_widths():
    context = small_context()
    steps = (
        Binarize(select=dw.Select(names=("conv*",)), keeps_ends=False, activations=False),
        Binarize(select=dw.Select(names=("linear*",)), keeps_ends=False, n_bits=2, activations=False),
    )
    after = Recipe(steps).run(dense(), context)
    assert [codebook_of(after.encodings[name]).codebook_size for name in MIDDLE] == [2, 4]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_bits": 0}, "levels of 1 to 4 bits, got 0"),
        ({"n_bits": 5}, "levels of 1 to 4 bits, got 5; QuantizeAware has more"),
        ({"levels": "restricted"}, "the restricted range of 1 bit holds nothing but zero"),
        ({"levels": "half"}, "levels must be one of full, restricted, got 'half'"),
        ({"factor": "l2"}, "factor must be one of l1, least_squares, got 'l2'"),
        ({"gradient": "none"}, "gradient must be one of exact, own_weight, got 'none'"),
        ({"spread": "wide"}, "spread must be one of deviation, none, got 'wide'"),
        ({"centroid_gradient": "median"}, "centroid_gradient must be one of mean, sum"),
        ({"granularity": PerGroup(4)}, r"share a factor by PerTensor\(\) or PerChannel\(0\), got PerGroup"),
        ({"epochs": math.inf}, "epochs must be positive, got inf"),
        ({"learning_rate": 0.0}, "learning_rate must be positive or None, got 0.0"),
        ({"freeze_after": -0.1}, r"freeze_after is a share of the training, in \[0, 1\], got -0.1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], words: str):
    with pytest.raises(SettingError, match=f"Binarize: .*{words}"):
        Binarize(**settings)


@pytest.mark.parametrize(
    "technique",
    [
        Binarize(),
        Binarize(
            n_bits=2, levels="restricted", factor="least_squares", gradient="own_weight", granularity=PerChannel(0),
            is_centred=False, spread="none", activations=False, keeps_ends=False, epochs=3, learning_rate=0.01,
            freeze_after=0.5, centroid_gradient="sum", distillation=dw.Distillation(), select=dw.Select(names=("a*",)),
        ),
    ],
)  # fmt: skip
def test_settings_survive_a_round_trip(technique: Binarize):
    assert from_plain(Binarize, to_plain(technique), where="here") == technique


def test_it_says_what_it_needs_and_does():
    technique = Binarize()
    assert technique.needs == Needs.TRAINING | Needs.EXAMPLE
    codes = Trait.CLUSTERED | Trait.INTEGER | Trait.KERNEL
    assert technique.effect.adds == codes | Trait.QUANTIZED_ACTIVATIONS | Trait.FOLDED
    assert Binarize(activations=False).effect.adds == codes
