"""This file tests hints: what modules say is compared, maps are learned, resumed and thrown away, nothing stays."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import dwindle as dw
from dwindle.errors import NetworkError, RecipeError, SettingError
from dwindle.network.distillation import distilled_loss
from dwindle.network.hints import hinting
from dwindle.testing import small_context, small_network

EXAMPLE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def student(seed: int = 0, width: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    body = (nn.Conv2d(1, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(16 * width, 4)).eval()


def observed(network: nn.Module) -> list[Any]:
    return [
        (name, type(module), module.training, len(module._forward_hooks), list(module._parameters))
        for name, module in network.named_modules()
    ]


def context_of(workdir: Path | None = None, progress: Callable[[str, int, int], None] | None = None) -> dw.Context:
    offered = small_context()
    trainer = dw.FabricTrainer(
        train=TensorDataset(offered.trainer.inputs, offered.trainer.targets),
        batch_size=8,
        learning_rate=0.05,
        workdir=workdir,
        accelerator="cpu",
        report_progress=progress,
    )
    return replace(offered, trainer=trainer, teacher=small_network(), networks={"small": student()})


HINTED = dw.Distill(student="small", epochs=4, distillation=dw.Distillation(hints=(("0", "depthwise"), ("4", "head"))))


def test_the_distance_is_the_mean_of_the_squares_and_a_map_goes_between_other_channels() -> None:
    ours, theirs = student(), small_network()
    with hinting((("0", "stem"), ("4", "head")), student=ours, teacher=theirs, example=EXAMPLE, seed=0) as hints:
        ours(EXAMPLE)
        theirs(EXAMPLE)
        found = hints.distance()
        weight = ours.get_parameter("hint_map_0")
        assert weight.shape == (6, 3)
        mapped = nn.functional.conv2d(ours[0](EXAMPLE), weight[:, :, None, None])
        first = (mapped - theirs.stem(EXAMPLE)).square().mean()
        second = (ours(EXAMPLE) - theirs(EXAMPLE)).square().mean()
        assert found.item() == pytest.approx(((first + second) / 2).item(), rel=1e-5)
        found.backward()
        assert weight.grad is not None
        assert ours[0].weight.grad is not None


def test_what_comes_next_in_place_does_not_change_what_a_module_said() -> None:
    ours = student()
    with hinting((("1", "1"),), student=ours, teacher=student(1), example=EXAMPLE, seed=0) as hints:
        ours(EXAMPLE)
        assert float(hints.student.take("1").detach().min()) < 0  # the ReLU behind it writes in place


@given(
    shape=st.sampled_from([(2, 5), (2, 5, 7), (2, 7, 5), (2, 5, 3, 3), (2, 5, 2, 2, 2)]),
    n_theirs=st.integers(1, 6),
    seed=st.integers(0, 50),
)
def test_maps_give_shapes_of_the_teacher_whatever_the_axes(shape: tuple[int, ...], n_theirs: int, seed: int) -> None:
    axis = 2 if shape == (2, 7, 5) else 1
    wanted = tuple(n_theirs if i == axis else n for i, n in enumerate(shape))

    class Says(nn.Module):
        def __init__(self, *shape: int) -> None:
            super().__init__()
            self.shape, self.inner = shape, nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            generator = torch.Generator().manual_seed(seed)
            return self.inner(torch.randn(len(x), *self.shape[1:], generator=generator))

    ours, theirs = Says(*shape), Says(*wanted)
    with hinting((("inner", "inner"),), student=ours, teacher=theirs, example=torch.zeros(2, 1), seed=seed) as hints:
        ours(torch.zeros(4, 1))
        theirs(torch.zeros(4, 1))
        assert torch.isfinite(hints.distance())
        assert len(hints.maps) == int(shape != wanted)
        assert len(list(ours.parameters())) == len(hints.maps)
    assert not list(ours.parameters())


def test_nothing_stays_behind_even_after_an_error() -> None:
    ours, theirs = student().train(), small_network()
    before, values = observed(ours), copy.deepcopy(ours.state_dict())
    seen = observed(theirs)
    pairs = (("0", "stem"), ("4", "head"))

    def break_off() -> None:
        with hinting(pairs, student=ours, teacher=theirs, example=EXAMPLE, seed=0):
            assert "hint_map_0" in ours.state_dict()
            assert observed(theirs) != seen
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert observed(ours) == before
    assert observed(theirs) == seen
    assert all(torch.equal(value, values[name]) for name, value in ours.state_dict().items())
    with (
        pytest.raises(NetworkError),
        hinting((*pairs, ("1", "flatten")), student=ours, teacher=theirs, example=EXAMPLE, seed=0),
    ):
        pass
    assert observed(ours) == before
    assert observed(theirs) == seen


def test_a_name_of_the_student_that_a_map_would_take_stays_its_own() -> None:
    ours = student()
    ours.register_parameter("hint_map_0", nn.Parameter(torch.ones(2)))
    with hinting((("0", "stem"),), student=ours, teacher=small_network(), example=EXAMPLE, seed=0) as hints:
        assert hints.maps[0].name == "_hint_map_0"
    assert torch.equal(ours.get_parameter("hint_map_0"), torch.ones(2))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("00", "stem"), r"module '00', which the student does not have; the nearest names are \['0'"),
        (("0", "stm"), r"module 'stm', which the teacher does not have; the nearest names are \['stem'"),
        (("3", "stem"), r"'3', which answers \(2, 48\), with 'stem' of the teacher, which answers \(2, 6, 4, 4\)"),
    ],
)
def test_modules_that_do_not_go_together_are_one_error(pair: tuple[str, str], message: str) -> None:
    with (
        pytest.raises(NetworkError, match=message),
        hinting((pair,), student=student(), teacher=small_network(), example=EXAMPLE, seed=0),
    ):
        pass
    step = replace(HINTED, distillation=dw.Distillation(hints=(pair,)))
    (problem,) = dw.Recipe((step,)).check(context_of(), model=dw.CompressedModel.dense(small_network()))
    assert "step 1, Distill" in problem


def test_a_module_that_is_never_called_or_gives_no_tensor_is_one_error() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle, self.pair = nn.Linear(1, 1), Pair()

        def forward(self, x: Tensor) -> Tensor:
            return self.pair(x)["x"].flatten(1)

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"x": x}

    for name in ("idle", "pair"):
        with (
            pytest.raises(NetworkError, match=f"'{name}' of the student, which gave no tensor"),
            hinting(((name, "stem"),), student=Odd(), teacher=small_network(), example=EXAMPLE, seed=0),
        ):
            pass


def test_a_recurrent_layer_says_its_outputs() -> None:
    class Recurrent(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, n, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x[:, 0])[0][:, -1]

    ours, theirs = Recurrent(3), Recurrent(5)
    with hinting((("lstm", "lstm"),), student=ours, teacher=theirs, example=EXAMPLE, seed=0) as hints:
        assert hints.maps[0].axis == 2


def test_hints_pull_a_module_towards_its_teacher() -> None:
    def gap(weight: float) -> float:
        settings = dw.Distillation(alpha=1.0, hints=(("4", "head"),), hint_weight=weight)
        step = dw.Distill(student="small", epochs=30, distillation=settings)
        after = step.apply(dw.CompressedModel.dense(small_network()), context_of())
        inputs = small_context().trainer.inputs
        with torch.no_grad():
            return float((after.network.eval()(inputs) - small_network()(inputs)).square().mean())

    assert gap(1.0) < 0.5 * gap(0.0)


def test_no_map_reaches_the_file(tmp_path: Path) -> None:
    after = HINTED.apply(dw.CompressedModel.dense(small_network()), context_of())
    assert set(after.network.state_dict()) == set(student().state_dict())
    assert set(after.encodings) == set(student().state_dict())
    result = dw.deploy(after, EXAMPLE, tmp_path, formats=("dwn",))
    assert set(dw.read(result.artifacts["dwn"].path).state_dict()) == set(student().state_dict())


@pytest.mark.parametrize("killed_at", [2, 7])
def test_a_killed_training_goes_on_as_if_never_cut(tmp_path: Path, killed_at: int) -> None:
    class KilledError(Exception):
        pass

    def kill(_: str, step: int, __: int) -> None:
        if step == killed_at:
            raise KilledError

    model = dw.CompressedModel.dense(small_network())
    uncut = HINTED.apply(model, context_of())
    with pytest.raises(KilledError):
        HINTED.apply(model, context_of(tmp_path, kill))
    went_on: list[int] = []
    resumed = HINTED.apply(model, context_of(tmp_path, lambda _, step, __: went_on.append(step)))
    assert went_on[0] == (1 if killed_at == 2 else 6)
    assert resumed.digest() == uncut.digest()


@pytest.mark.parametrize(
    "step",
    [
        dw.FineTune(epochs=1),
        dw.Cluster(codebook_size=4, epochs=1),
        dw.PruneWeights(sparsity=0.5, schedule=dw.Polynomial(), epochs=1),
        dw.QuantizeAware(epochs=1, activations=None),
    ],
    ids=lambda step: type(step).__name__,
)
def test_every_training_of_modules_can_follow_hints(step: Any) -> None:
    hinted = replace(step, distillation=dw.Distillation(teachers=("big",), hints=(("stem", "0"),)))
    context = replace(context_of(), networks={"big": student(5, width=9)}, teacher=None)
    model = dw.CompressedModel.dense(small_network())
    after = dw.Recipe((hinted,)).run(model, context)
    assert set(after.network.state_dict()) == set(model.network.state_dict())
    assert after.digest() != step.apply(model, replace(context, teacher=small_network())).digest()


@pytest.mark.parametrize("cls", [dw.QuantizeAware, dw.Binarize])
def test_a_training_of_graphs_refuses_hints(cls: Any) -> None:
    with pytest.raises(SettingError, match="hints watch modules"):
        cls(distillation=dw.Distillation(hints=(("a", "b"),)))


def test_hints_need_an_example() -> None:
    context = replace(context_of(), example=None)
    with pytest.raises(RecipeError, match="EXAMPLE"):
        dw.Recipe((HINTED,)).run(dw.CompressedModel.dense(small_network()), context)
    with (
        pytest.raises(RecipeError, match="Context\\(example"),
        distilled_loss(HINTED.distillation, context, student()),
    ):
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hints": "ab"}, "pairs of module names"),
        ({"hints": (("a",),)}, "pairs of module names"),
        ({"hints": (("a", ""),)}, "pairs of module names"),
        ({"hints": (("a", 3),)}, "pairs of module names"),
        ({"hints": (("a", "b"),), "teachers": ("x", "y")}, "name one"),
        ({"hint_weight": -1.0}, "hint_weight"),
        ({"hint_weight": float("inf")}, "hint_weight"),
        ({"teachers": "abc"}, "teachers are names"),
        ({"teachers": ("a", "a")}, "each once"),
        ({"teachers": (1,)}, "teachers are names"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        dw.Distillation(**settings)


def test_lists_are_taken_for_what_they_are_and_survive_toml() -> None:
    listed: Any = {"teachers": ["x"], "hints": [["a", "b"]]}
    settings = dw.Distillation(**listed)
    assert settings == dw.Distillation(teachers=("x",), hints=(("a", "b"),))
    recipe = dw.Recipe((dw.FineTune(distillation=settings), replace(HINTED, teacher="given")))
    assert dw.Recipe.from_toml(recipe.to_toml()) == recipe
