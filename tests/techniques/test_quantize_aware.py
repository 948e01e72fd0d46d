"""This file tests quantization-aware training: what is trained is what is exported, whatever structure was there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import dwindle as dw
from dwindle.container.reader import read
from dwindle.container.records import AffineRecord, CodebookRecord, ScaledRecord, SparseRecord
from dwindle.core.encoding import affine_of, codebook_of, decode, describe, support_of
from dwindle.core.granularity import PerChannel, PerGroup, PerTensor
from dwindle.errors import DataError, EncodingError, NetworkError, RecipeError, SelectionError, SettingError
from dwindle.exporters.graph import build_graph
from dwindle.exporters.native import NativeExporter
from dwindle.exporters.onnx import OnnxExporter
from dwindle.network.activations import ActivationQuantizer, CallSite, DynamicQuantizer
from dwindle.network.compressed import CompressedModel
from dwindle.network.simulate import simulate
from dwindle.recipe import Recipe
from dwindle.settings import from_plain, to_plain
from dwindle.technique import Context, Needs, Trait
from dwindle.techniques.quantize_aware import QuantizeAware
from dwindle.testing.small import PlainTrainer, small_context, small_network

MATMULS = ("stem.weight", "depthwise.weight", "head.weight")


def dense() -> CompressedModel:
    return CompressedModel.dense(small_network())


def pruned_and_clustered() -> CompressedModel:
    model = dw.PruneWeights(sparsity=0.5).apply(dense(), Context())
    return dw.Cluster(codebook_size=8).apply(model, Context())


STARTS = {
    "dense": dense,
    "pruned": lambda: dw.PruneWeights(sparsity=0.5).apply(dense(), Context()),
    "clustered": lambda: dw.Cluster(codebook_size=8).apply(dense(), Context()),
    "pruned and clustered": pruned_and_clustered,
    "half": lambda: dw.CastHalf().apply(dense(), Context()),
    "folded": lambda: dw.FoldBatchNorm().apply(pruned_and_clustered(), small_context()),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Watching(PlainTrainer):
    """A trainer that keeps what the network was at the end: what it answers, and what its weights were made from."""

    seen: dict[str, Any] = field(default_factory=dict[str, Any])

    def __call__(self, network: nn.Module, **arguments: Any) -> Any:
        curve = super().__call__(network, **arguments)
        was_training = network.training
        with torch.no_grad():
            self.seen["answer"] = network.eval()(self.inputs)
        network.train(was_training)
        for path, module in network.named_modules():
            if "parametrizations" in vars(module)["_modules"]:
                for name, made in module.parametrizations.items():
                    step = made[0].grid.step
                    self.seen[f"{path}.{name}"] = (
                        made.original.detach().clone(),
                        None if step is None else step.detach().abs().clone(),
                    )
        return curve


@dataclass(frozen=True, kw_only=True, eq=False)
class Idle(PlainTrainer):
    """A trainer that returns at once."""

    def __call__(self, network: nn.Module, **arguments: Any) -> Any:
        del network, arguments
        return ()


def watched(kind: type[PlainTrainer] = Watching) -> tuple[Context, Any]:
    context = small_context()
    trainer = kind(inputs=context.trainer.inputs, targets=context.trainer.targets)
    return replace(context, trainer=trainer), trainer


def answers(model: CompressedModel, x: Tensor) -> Tensor:
    with torch.no_grad():
        return simulate(model, x[:2])(x)


def codes_of(record: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the codes of every weight in a record of a file, and the factors of its outputs."""
    match record:
        case ScaledRecord(values, factor, _):
            return codes_of(values)[0], factor
        case SparseRecord(support, values):
            return np.where(support, codes_of(values)[0], 0), None
        case CodebookRecord(indices, AffineRecord(codes=codes)):
            return codes[indices], None
        case AffineRecord(codes=codes):
            return codes, None
    raise AssertionError(record)


def _by_weight(
    codes: tuple[Tensor, Tensor], after: CompressedModel, before: CompressedModel, name: str
) -> Iterator[Tensor]:
    """Yield the codes of `after` and `before` weight by weight; centroids that met on a code have become one."""
    for values, model in zip(codes, (after, before), strict=True):
        book = codebook_of(model.encodings[name])
        yield values if book is None else values[book.indices.long()]


def unfolded(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Return values inside the graph of an .onnx file, as onnxruntime computes them."""
    proto = onnx.load(path)
    initializers = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    made = [name for name in names if name not in initializers]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(made, {session.get_inputs()[0].name: np.zeros((2, 1, 8, 8), np.float32)}) if made else []
    return initializers | dict(zip(made, found, strict=True))


SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "4 bits": {"weights": 4, "granularity": PerTensor(), "ranges": "learned", "freeze_after": 0.0},
    "2 bits": {"weights": 2, "weight_scale": "extremes", "freeze_after": 1.0, "quantize_output": True},
}
QUICK = {("default", "dense"), ("default", "half"), ("default", "folded"), ("2 bits", "clustered")} | {
    ("4 bits", "pruned and clustered")
}


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        pytest.param(*which, marks=() if which in QUICK else pytest.mark.slow)
        for which in itertools.product(SETTINGS, STARTS)
    ],
)
def test_the_trained_integers_are_those_of_the_model(settings: str, start: str):
    context, trainer = watched()
    model = STARTS[start]()
    technique = QuantizeAware(epochs=1, **SETTINGS[settings])
    after = technique.apply(model, context)
    for name in MATMULS:
        floats, step = trainer.seen[name]
        codes = affine_of(after.encodings[name])
        assert codes is not None
        assert codes.granularity == (
            technique.granularity if codebook_of(model.encodings[name]) is None else PerTensor()
        )
        highest = (1 << (technique.weights - 1)) - 1
        if step is not None:
            assert torch.equal(codes.scale, step)
            shape = [-1, *[1] * (floats.ndim - 1)] if len(step) > 1 else []
            wanted = (floats / step.reshape(shape)).round().clamp(-highest, highest)
            support = support_of(model.encodings[name])
            if support is not None and codebook_of(model.encodings[name]) is None:
                wanted = wanted * support
            assert torch.equal(*_by_weight((codes.codes.float(), wanted), after, model, name))
        assert int(codes.codes.abs().max()) <= highest
    # The graph in training has batch norms where the model has factors and biases: products in another order, which may
    # move a value that lies between two codes from one to the other. Numbers of float16 are rounded at the end.
    found, wanted = answers(after, trainer.inputs), trainer.seen["answer"]
    gap = (found - wanted).abs() / wanted.abs().max()
    assert float(gap.median()) < (2e-3 if start == "half" else 1e-5)
    assert float(gap.max()) < 0.02


@pytest.mark.parametrize("start", ["dense", "pruned and clustered"])
def test_the_files_hold_the_trained_integers_and_ranges(start: str, tmp_path: Path):
    context, trainer = watched()
    before = STARTS[start]()
    after = QuantizeAware(epochs=1, weights=5).apply(before, context)
    example = context.example
    graph = build_graph(after, example)
    native = NativeExporter().export(after, example, tmp_path / "model.dwn", graph=graph)
    plain = OnnxExporter().export(after, example, tmp_path / "model.onnx", graph=graph)
    contents = read(native.path)
    onnx_values = unfolded(plain.path, [f"{name}/codes" for name in MATMULS])
    signs = []
    for name in MATMULS:
        floats, step = trainer.seen[name]
        trained = torch.round(floats / step.reshape([-1, *[1] * (floats.ndim - 1)] if len(step) > 1 else [])).clamp(
            -15, 15
        )
        codes, factor = codes_of(contents.record(name))
        book = codebook_of(before.encodings[name])
        trained = (trained if book is None else trained[book.indices.long()]).numpy()
        support = support_of(after.encodings[name])
        wanted = trained if support is None else trained * support.numpy()
        np.testing.assert_array_equal(codes, wanted)
        turned = np.ones(len(codes)) if factor is None else np.sign(factor)
        signs.append(turned.min())
        np.testing.assert_array_equal(
            onnx_values[f"{name}/codes"], wanted * turned.reshape([-1, *[1] * (codes.ndim - 1)])
        )
    assert min(signs) == -1.0  # a batch norm with a negative weight mirrors the codes of its channel
    scales = {float(v.ravel()[0]) for k, v in onnx_values.items() if k.endswith("scale") and "weight" not in k}
    wanted_scales = {np.float32(quantizer.scale) for quantizer in after.activations.values()}
    assert {float(scale) for scale in wanted_scales} <= scales
    stored = contents.metadata["activations"]
    assert {site: entry["scale"] for site, entry in stored.items()} == {
        str(site): quantizer.scale for site, quantizer in after.activations.items()
    }


def test_activations_end_with_the_trained_ranges():
    context = small_context()
    still = QuantizeAware().apply(dense(), watched(Idle)[0])
    static = dw.QuantizeStatic().apply(dense(), context)
    moved = QuantizeAware(epochs=2, learning_rate=0.2, freeze_after=1).apply(dense(), context)
    held = QuantizeAware(epochs=2, learning_rate=0.2, freeze_after=0).apply(dense(), context)
    learned = QuantizeAware(epochs=2, learning_rate=0.2, ranges="learned").apply(dense(), context)
    for model in (static, moved, held, learned):
        assert set(model.activations) == set(still.activations)
    site = CallSite("<input>", 0)
    own = {
        CallSite(*text.rsplit(":", 2)[:1], *map(int, text.rsplit(":", 2)[1:]))
        for text in moved.history[-1].decisions["ranges"]
    }
    assert own <= set(moved.activations)
    for at in own:
        before = still.activations[at]
        assert static.activations[at].scale == pytest.approx(before.scale, rel=0.02)
        assert held.activations[at].scale == before.scale
        assert learned.activations[at].zero_point == before.zero_point
    assert any(moved.activations[at].scale != pytest.approx(still.activations[at].scale, rel=1e-6) for at in own)
    assert any(learned.activations[at].scale != pytest.approx(still.activations[at].scale, rel=1e-6) for at in own)
    assert moved.activations[site].n_bits == 8


@pytest.mark.parametrize(("freeze_after", "n_moves"), [(0.0, 0), (0.5, 2), (1.0, 3)])
def test_statistics_stay_from_the_freeze_on(freeze_after: float, n_moves: int):
    seen: list[Tensor] = []
    context = small_context()

    @dataclass(frozen=True, kw_only=True, eq=False)
    class Peeking(PlainTrainer):
        def __call__(self, network: nn.Module, *, after_step: Any, **arguments: Any) -> Any:
            def peek(step: int) -> None:
                after_step(step)
                seen.append(network.state_dict()["norm1.running_mean"].clone())

            seen.append(network.state_dict()["norm1.running_mean"].clone())
            return super().__call__(network, after_step=peek, **arguments)

    trainer = Peeking(inputs=context.trainer.inputs, targets=context.trainer.targets)
    QuantizeAware(epochs=1, freeze_after=freeze_after).apply(dense(), replace(context, trainer=trainer))
    assert len(seen) == 4
    assert [not torch.equal(a, b) for a, b in pairwise(seen)] == [i < n_moves for i in range(3)]


def test_it_learns_and_beats_quantization_without_training():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(128, 1, 8, 8, generator=generator)
    targets = (inputs.mean((1, 2, 3)) > 0).long() + 2 * (inputs[:, 0, :4].mean((1, 2)) > 0).long()
    trainer = dw.FabricTrainer(
        train=TensorDataset(inputs, targets), batch_size=32, accelerator="cpu", learning_rate=0.05
    )
    context = replace(small_context(), trainer=trainer, calibration=tuple(inputs.split(32)))
    model = dw.FineTune(epochs=15).apply(dense(), context)
    right = {
        name: float((answers(step.apply(model, context), inputs).argmax(1) == targets).float().mean())
        for name, step in (
            ("after", dw.QuantizeStatic(weights=2)),
            ("aware", QuantizeAware(weights=2, epochs=8, learning_rate=0.02)),
        )
    }
    assert right["aware"] > right["after"] + 0.1
    curve = QuantizeAware(weights=2, epochs=8, learning_rate=0.02).apply(model, context).history[-1].curve
    assert curve[-1]["loss"] < curve[0]["loss"]


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("start", "settings"),
    [
        ("dense", {}),
        ("pruned and clustered", {"ranges": "learned", "freeze_after": 0.3}),
        ("dense", {"activations": None}),
        pytest.param("pruned and clustered", {}, marks=pytest.mark.slow),
        pytest.param("dense", {"ranges": "learned", "freeze_after": 0.3}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_killed_training_goes_on_as_if_never_cut(start: str, settings: dict[str, Any], tmp_path: Path):
    def kill(what: str, step: int, _: int) -> None:
        if step == 7 and "epoch" not in what:  # in the third of four epochs of three steps
            raise KilledError

    def trainer(workdir: Path | None, report: Any = None) -> dw.FabricTrainer:
        data = TensorDataset(small_context().trainer.inputs, small_context().trainer.targets)
        return dw.FabricTrainer(
            train=data, batch_size=8, workdir=workdir, accelerator="cpu", learning_rate=0.1, report_progress=report
        )

    model, technique, context = STARTS[start](), QuantizeAware(epochs=4, **settings), small_context()
    uncut = technique.apply(model, replace(context, trainer=trainer(None)))
    with pytest.raises(KilledError):
        technique.apply(model, replace(context, trainer=trainer(tmp_path, kill)))
    went_on: list[int] = []
    again = trainer(tmp_path, lambda _, step, __: went_on.append(step))
    resumed = technique.apply(model, replace(context, trainer=again))
    assert went_on[0] == 6
    assert resumed.digest() == uncut.digest()


@pytest.mark.slow
def test_other_settings_never_go_on_from_each_others_checkpoints(tmp_path: Path):
    data = TensorDataset(small_context().trainer.inputs, small_context().trainer.targets)
    trainer = dw.FabricTrainer(train=data, batch_size=8, accelerator="cpu")
    context = replace(small_context(), trainer=replace(trainer, workdir=tmp_path))
    steps = [
        QuantizeAware(),
        QuantizeAware(ranges="learned"),
        QuantizeAware(activations=None),
        QuantizeAware(activations=None, weights=4),
    ]
    kept = [step.apply(dense(), context).digest() for step in steps]
    alone = [step.apply(dense(), replace(context, trainer=trainer)).digest() for step in steps]
    assert kept == alone
    assert len(set(kept)) == len(steps)


def test_integer_weights_stay_and_the_rest_is_trained_with_weights_none():
    context, _ = watched()
    integer = dw.QuantizeWeights(granularity=PerChannel(0)).apply(pruned_and_clustered(), context)
    after = QuantizeAware(weights=None, epochs=1, learning_rate=0.1).apply(integer, context)
    for name in MATMULS:
        before, now = affine_of(integer.encodings[name]), affine_of(after.encodings[name])
        assert torch.equal(before.codes, now.codes)
        assert torch.equal(before.scale, now.scale)
    assert not torch.equal(decode(integer.encodings["head.bias"]), decode(after.encodings["head.bias"]))
    assert len(after.activations) > 3
    assert Trait.INTEGER not in QuantizeAware(weights=None).effect.refuses


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_weights_alone_then_activations(kind: str):
    context, trainer = watched()
    first = QuantizeAware(activations=None, weights=6, epochs=1)
    second = dw.QuantizeStatic(weights=None) if kind == "static" else dw.QuantizeDynamic(weights=None)
    after = Recipe((first, second)).run(pruned_and_clustered(), context)
    assert [record.technique for record in after.history[-2:]] == ["QuantizeAware", type(second).__name__]
    between = first.apply(pruned_and_clustered(), context)
    assert between.activations == {}
    assert between.edits == ()
    found = answers(between, trainer.inputs)
    torch.testing.assert_close(found, trainer.seen["answer"])
    for name in MATMULS:
        assert torch.equal(affine_of(between.encodings[name]).codes, affine_of(after.encodings[name]).codes)
        assert (
            describe(between.encodings[name])
            == f"Sparse(Codebook({codebook_of(between.encodings[name]).codebook_size}, Affine(6 bit)))"
        )
    wanted = {ActivationQuantizer} if kind == "static" else {DynamicQuantizer}
    assert {type(quantizer) for quantizer in after.activations.values()} == wanted


def test_weights_alone_reach_recurrent_and_embedding_layers():
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.gru = nn.Embedding(9, 6), nn.GRU(6, 6, 2, batch_first=True, bidirectional=True)
            self.out = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.gru(self.embedding(x))[0][:, -1])

    inputs = torch.randint(0, 9, (24, 5))
    trainer = Watching(inputs=inputs, targets=torch.randint(4, (24,)))
    model = dw.PruneWeights(sparsity=0.5).apply(CompressedModel.dense(Tagger().eval()), Context())
    after = QuantizeAware(activations=None, weights=4).apply(model, Context(trainer=trainer))
    matrices = [name for name, encoding in model.encodings.items() if decode(encoding).ndim == 2]
    assert len(matrices) == 10
    assert {describe(after.encodings[name]) for name in matrices} == {"Sparse(Affine(4 bit))"}
    with torch.no_grad():
        torch.testing.assert_close(after.network(inputs), trainer.seen["answer"])


def test_sixteen_bit_activations():
    context, trainer = watched()
    after = QuantizeAware(activations=16, epochs=1).apply(dense(), context)
    assert {(q.zero_point, q.n_bits, q.signed) for q in after.activations.values()} == {(0, 16, True)}
    wanted = trainer.seen["answer"]
    assert float((answers(after, trainer.inputs) - wanted).abs().max() / wanted.abs().max()) < 1e-3


def test_a_trainer_that_returns_at_once_leaves_the_rounded_network():
    context, trainer = watched(Idle)
    model = dense()
    after = QuantizeAware().apply(model, context)
    with torch.no_grad():
        wanted = model.network(trainer.inputs)
    assert float((answers(after, trainer.inputs) - wanted).abs().max() / wanted.abs().max()) < 0.1
    assert after.history[-1].curve == ()


def test_a_teacher_is_imitated():
    context, trainer = watched()
    technique = QuantizeAware(distillation=dw.Distillation(alpha=0.0), epochs=3, learning_rate=0.02)
    assert technique.needs == Needs.TRAINING | Needs.EXAMPLE | Needs.CALIBRATION | Needs.TEACHER
    with pytest.raises(RecipeError, match="teacher"):
        technique.apply(dense(), context)
    teacher = small_network(1)
    after = technique.apply(dense(), replace(context, teacher=teacher))
    plain = QuantizeAware(epochs=3, learning_rate=0.02).apply(dense(), context)
    with torch.no_grad():
        x, wanted = trainer.inputs, teacher(trainer.inputs).softmax(1)
    gaps = [float((answers(model, x).softmax(1) - wanted).abs().mean()) for model in (after, plain)]
    assert gaps[0] < gaps[1]


def test_the_record_says_what_was_done():
    after = QuantizeAware(epochs=2).apply(dense(), small_context())
    record = after.history[-1]
    assert record.technique == "QuantizeAware"
    assert record.settings["weights"] == 8
    assert record.decisions["integer_weights"] == list(MATMULS)
    assert record.decisions["folded"] == {"norm1": "stem", "norm2": "depthwise"}
    assert set(record.decisions["ranges"]) | set(record.decisions["shared"]) == {
        str(site) for site in after.activations
    }
    assert len(record.curve) == 2
    assert not any(name.startswith("norm") for name in after.encodings)


def test_selected_weights_alone_become_integers():
    after = QuantizeAware(select=dw.Select(exclude=("stem*",))).apply(dense(), small_context())
    assert affine_of(after.encodings["stem.weight"]) is None
    assert affine_of(after.encodings["head.weight"]) is not None
    assert CallSite("<input>", 0) not in after.activations


def test_no_layer_with_integer_kernels_is_one_clear_error():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x[:, 0])[0][:, -1]

    with pytest.raises(SettingError, match=r"no selected weight belongs to a convolution.*use activations=None"):
        QuantizeAware().apply(CompressedModel.dense(Recurrent().eval()), small_context())


def test_missing_or_wrong_data_is_refused():
    context, model = small_context(), dense()
    with pytest.raises(RecipeError, match="give the context a trainer"):
        QuantizeAware().apply(model, replace(context, trainer=None))
    with pytest.raises(RecipeError, match="Context\\(example="):
        QuantizeAware().apply(model, replace(context, example=None))
    with pytest.raises(RecipeError, match="calibration="):
        QuantizeAware().apply(model, replace(context, calibration=None))
    with pytest.raises(DataError):
        QuantizeAware().apply(model, replace(context, calibration=()))
    with pytest.raises(DataError, match="NaN"):
        QuantizeAware().apply(model, replace(context, calibration=[torch.full((2, 1, 8, 8), math.nan)]))
    with pytest.raises(SelectionError, match="matches no weight"):
        QuantizeAware(select=dw.Select(names=("nothing*",))).apply(model, context)
    double = CompressedModel.dense(small_network().double())
    with pytest.raises(NetworkError, match="float64, but codes are decoded in float32"):
        QuantizeAware(activations=None).apply(double, context)


def test_nan_in_the_training_data_is_one_clear_error():
    context = small_context()
    inputs = context.trainer.inputs.clone()
    inputs[3] = math.nan
    data = TensorDataset(inputs, context.trainer.targets)
    fabric = dw.FabricTrainer(train=data, batch_size=8, accelerator="cpu")
    plain = PlainTrainer(inputs=inputs, targets=context.trainer.targets)
    for trainer, settings in ((fabric, {}), (plain, {"activations": None}), (plain, {"weight_scale": "extremes"})):
        with pytest.raises(NetworkError, match=r"NaN|finite"):
            QuantizeAware(**settings).apply(dense(), replace(context, trainer=trainer))


def test_quantizing_twice_is_one_clear_error():
    context = small_context()
    once = QuantizeAware().apply(dense(), context)
    for technique in (QuantizeAware(), QuantizeAware(weights=None), QuantizeAware(activations=None)):
        with pytest.raises(RecipeError, match="activations are quantized already; do it once"):
            technique.apply(once, context)
    integer = QuantizeAware(activations=None).apply(dense(), context)
    for technique in (QuantizeAware(), QuantizeAware(activations=None)):
        with pytest.raises(EncodingError, match=r"'stem.weight' has no float values left.*weights=None"):
            technique.apply(integer, context)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weights": 1}, r"weights must be in \[2, 8\], or None, got 1; Binarize"),
        ({"weights": 9}, r"weights must be in \[2, 8\]"),
        ({"activations": 4}, "activations must be 8 or 16"),
        ({"weights": None, "activations": None}, "nothing to quantize; use FineTune"),
        ({"granularity": PerGroup(4)}, r"no integer kernels for PerGroup.*use PerChannel\(0\)"),
        ({"granularity": PerChannel(1)}, r"no integer kernels for PerChannel\(axis=1\)"),
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"epochs": math.nan}, "epochs must be positive, got nan"),
        ({"learning_rate": -1.0}, "learning_rate must be positive or None, got -1.0"),
        ({"freeze_after": 1.5}, r"freeze_after is a share of the training, in \[0, 1\], got 1.5"),
        ({"freeze_after": math.nan}, "freeze_after is a share"),
        ({"weight_scale": "best"}, "weight_scale must be one of learned, extremes, got 'best'"),
        ({"ranges": "fixed"}, "ranges must be one of moving_average, learned, got 'fixed'"),
        ({"centroid_gradient": "median"}, "centroid_gradient must be one of mean, sum, got 'median'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], words: str):
    with pytest.raises(SettingError, match=f"QuantizeAware: .*{words}"):
        QuantizeAware(**settings)


@pytest.mark.parametrize(
    "technique",
    [
        QuantizeAware(),
        QuantizeAware(
            weights=None, activations=16, epochs=0.5, learning_rate=0.01, ranges="learned", freeze_after=1,
            calibration=dw.Calibration(n=9, method=dw.Percentile(99.0)), quantize_output=True,
            distillation=dw.Distillation(), select=dw.Select(exclude=("a*",)),
        ),
        QuantizeAware(weights=4, weight_scale="extremes", granularity=PerTensor(), centroid_gradient="sum"),
    ],
)  # fmt: skip
def test_settings_survive_a_round_trip(technique: QuantizeAware):
    assert from_plain(QuantizeAware, to_plain(technique), where="here") == technique


def test_it_says_what_it_needs_and_does():
    technique = QuantizeAware()
    assert technique.needs == Needs.TRAINING | Needs.EXAMPLE | Needs.CALIBRATION
    assert QuantizeAware(activations=None).needs == Needs.TRAINING
    assert technique.effect.adds == Trait.INTEGER | Trait.KERNEL | Trait.QUANTIZED_ACTIVATIONS | Trait.FOLDED
    assert QuantizeAware(activations=None).effect.adds == Trait.INTEGER | Trait.KERNEL
    assert QuantizeAware(weights=None).effect.requires == Trait.KERNEL
