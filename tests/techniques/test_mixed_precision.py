"""This file tests layers of different widths: who gets how many bits, what stays, what a bad map is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import dwindle as dw
from dwindle.container.inspect import inspect_file
from dwindle.core.encoding import Dense, codebook_of, decode
from dwindle.errors import RecipeError, SelectionError, SettingError
from dwindle.exporters.native import NativeExporter
from dwindle.network.compressed import CompressedModel
from dwindle.network.significance.criterion import Evidence, LayerScore
from dwindle.network.significance.significance import Judged, Significance
from dwindle.recipe import Recipe
from dwindle.technique import Needs
from dwindle.techniques.mixed_precision import MixedPrecision
from dwindle.testing.small import small_context


class Chain(nn.Module):
    """Five linear layers whose weights are wider the deeper they lie."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.last = nn.Linear(16, 4)
        with torch.no_grad():
            for number, layer in enumerate(self.layers, start=1):
                nn.init.normal_(layer.weight, std=0.1 * number)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)[:, :16]
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.last(x)


NAMES = (*(f"layers.{n}.weight" for n in range(4)), "last.weight")
BY_DEVIATION = Significance(by=dw.WeightDeviation(), threshold=0.25)


def dense() -> CompressedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CompressedModel.dense(Chain().eval())


def n_values(model: CompressedModel, name: str) -> int:
    return len(decode(model.encodings[name]).unique())


def test_significant_layers_get_more_bits_and_the_ends_stay() -> None:
    start = dense()
    model = MixedPrecision(significance=BY_DEVIATION, epochs=0.4).apply(start, small_context())
    assert [n_values(model, name) for name in NAMES[1:4]] == [2, 4, 4]
    assert all(isinstance(model.encodings[name], Dense) for name in (NAMES[0], NAMES[4]))
    assert sorted(q.n_bits for q in model.activations.values()) == [1, 2, 2]


def test_the_record_names_widths_and_scores_and_replays_without_data() -> None:
    start, context = dense(), small_context()
    model = MixedPrecision(significance=BY_DEVIATION, epochs=0.4).apply(start, context)
    record = model.history[-1]
    assert record.settings["bits"] == {NAMES[1]: 1, NAMES[2]: 2, NAMES[3]: 2}
    assert record.decisions["significance"]["significant"] == [NAMES[2], NAMES[3]]
    assert record.decisions["significance"]["scores"][NAMES[1]]["value"] == pytest.approx(0.2, rel=0.2)
    assert Recipe.replay(model.history, start, context).digest() == model.digest()


def test_a_map_is_stronger_than_significance_and_its_first_glob_counts() -> None:
    step = MixedPrecision(significance=BY_DEVIATION, bits={NAMES[1]: 3, "layers.[01].*": 4}, epochs=0.4)
    model = step.apply(dense(), small_context())
    assert n_values(model, NAMES[1]) <= 8
    assert n_values(model, NAMES[1]) > 4
    assert 8 < n_values(model, NAMES[0]) <= 16
    assert n_values(model, NAMES[2]) == 4


def test_a_side_without_a_width_stays_as_it_is() -> None:
    step = MixedPrecision(significance=BY_DEVIATION, significant=None, epochs=0.4)
    model = step.apply(dense(), small_context())
    assert codebook_of(model.encodings[NAMES[1]]) is not None
    assert all(isinstance(model.encodings[name], Dense) for name in NAMES[2:4])


def test_restricted_levels_leave_one_bit_its_two_values() -> None:
    step = MixedPrecision(bits={NAMES[1]: 1, NAMES[2]: 2}, levels="restricted", epochs=0.4)
    model = step.apply(dense(), small_context())
    assert n_values(model, NAMES[1]) == 2
    assert n_values(model, NAMES[2]) == 3


def test_files_hold_the_bits_that_were_asked_for(tmp_path: Path) -> None:
    step = MixedPrecision(bits={NAMES[1]: 1, NAMES[2]: 2}, epochs=0.4)
    model = step.apply(dense(), small_context())
    example = small_context().example
    assert isinstance(example, Tensor)
    file = NativeExporter().export(model, example, tmp_path / "mixed.dwn")
    sizes = {t.name: t for t in inspect_file(file.path).tensors}
    for name, n_bits in ((NAMES[1], 1), (NAMES[2], 2)):
        assert 8 * sizes[name].encoded_bytes / 256 < n_bits + 1.5  # a table of levels and a factor come on top


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "say which layers have how many bits"),
        ({"bits": {"*": 5}}, r"\* must be 1 to 4 bits, got 5"),
        ({"bits": {"*": None}}, "got None"),
        ({"bits": {"*": True}}, "got True"),
        ({"significance": BY_DEVIATION, "significant": 0}, "significant must be 1 to 4 bits, got 0"),
        ({"bits": {"*": 2}, "epochs": 0}, "epochs must be positive"),
        ({"bits": {"*": 2}, "learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"bits": {"*": 2}, "spread": "wide"}, "spread must be one of"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        MixedPrecision(**settings)  # pyright: ignore[reportArgumentType]


def test_a_pattern_that_matches_nothing_names_the_layers() -> None:
    with pytest.raises(SelectionError, match=r"'head\.\*' matches no layer; there are layers\.0\.weight"):
        MixedPrecision(bits={"head.*": 2}).apply(dense(), small_context())


def test_bits_of_no_layer_are_found_before_the_run() -> None:
    check = Recipe((MixedPrecision(bits={NAMES[1]: 1, "hed.*": 2}),)).check
    (problem,) = check(small_context(), model=dense())
    assert "bits names 'hed.*', which matches no convolution or linear layer" in problem
    assert Recipe((MixedPrecision(bits={NAMES[1]: 1}),)).check(small_context(), model=dense()) == []
    lstm = CompressedModel.dense(torch.nn.LSTM(3, 4))
    (problem,) = Recipe((MixedPrecision(bits={"weight_hh_l0": 1}),)).check(small_context(), model=lstm)
    assert "bits names 'weight_hh_l0', which matches no" in problem
    text = CompressedModel.dense(torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 2)))
    (problem,) = Recipe((MixedPrecision(bits={"0.weight": 1}),)).check(small_context(), model=text)
    assert "bits names '0.weight', which matches no" in problem


def test_needs_are_those_of_the_criterion() -> None:
    sensitive = Significance(by=dw.LossSensitivity(), share=0.5)
    assert Needs.LABELS in MixedPrecision(significance=sensitive).needs
    assert Needs.LABELS not in MixedPrecision(significance=BY_DEVIATION).needs
    with pytest.raises(RecipeError, match="needs LABELS"):
        Recipe((MixedPrecision(significance=sensitive),)).run(dense(), replace(small_context(), validation=None))


def test_weights_that_two_thresholds_share_out_cover_all_layers() -> None:
    for threshold in (0.0, 0.25, 9.0):
        judged = Significance(by=dw.WeightDeviation(), threshold=threshold).judge(
            dense().network, Evidence(example=torch.zeros(1, 16)), NAMES
        )
        assert {*judged.on("significant"), *judged.on("insignificant")} == set(NAMES[1:-1])
        assert not {*judged.on("significant")} & {*judged.on("insignificant")}


def test_labels_decide_through_the_context() -> None:
    step = MixedPrecision(significance=Significance(by=dw.LossSensitivity(), share=0.5), epochs=0.4)
    model = Recipe((step,)).run(dense(), small_context())
    assert sorted(n_values(model, name) for name in NAMES[1:4]) in ([2, 2, 4], [2, 4, 4])


def test_equal_scores_are_cut_by_count() -> None:
    scores = {name: LayerScore(value=1.0) for name in "abcd"}
    judged = Judged(scores, ("a", "b"))
    assert judged.on("insignificant") == ("c", "d")
