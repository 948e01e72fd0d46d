"""The comparison with TFMOT: what is handed over, what the page says; the peer runs only where it is installed."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from dwindle.bench.ledger import Entry
from dwindle.data.cifar10 import CLASS_NAMES, MEAN, STD
from dwindle.data.splits import Splits
from dwindle.recipe import Recipe
from dwindle.studies.make import pack_bits

MODULES = ("settings", "images", "page", "ours")


@pytest.fixture(scope="module")
def tfmot(repository: Path) -> Iterator[dict[str, Any]]:
    """The benchmark's modules, which import each other as scripts of one folder do."""
    folder = str(repository / "benchmarks" / "tfmot")
    sys.path.insert(0, folder)
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(folder)
        for name in MODULES:
            sys.modules.pop(name, None)


def splits_of(n_train: int, n_test: int) -> Splits:
    generator = torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(numbers).reshape(1, 3, 1, 1) for numbers in (MEAN, STD))

    def part(n: int) -> TensorDataset:
        pixels = torch.randint(0, 256, (n, 3, 32, 32), generator=generator)
        images = pixels.float().div_(255).sub_(mean).div_(std)
        return TensorDataset(images, torch.randint(0, 10, (n,), generator=generator))

    return Splits(
        name="cifar-10", train=part(n_train), validation=part(n_test), test=part(n_test), class_names=CLASS_NAMES
    )


def test_the_peer_sees_our_pixels_bit_for_bit(tfmot: dict[str, Any], tmp_path: Path) -> None:
    splits = splits_of(1100, 30)
    tfmot["images"].write_images(splits, tmp_path / "deep" / "images.npz")
    with np.load(tmp_path / "deep" / "images.npz") as file:
        for name, dataset in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
            assert file[f"{name}_images"].dtype == np.uint8
            seen = tfmot["images"].standardized(file[f"{name}_images"], file["mean"], file["std"])
            assert np.array_equal(seen, dataset.tensors[0].permute(0, 2, 3, 1).numpy())
            assert np.array_equal(file[f"{name}_labels"], dataset.tensors[1].numpy())


def test_images_that_are_no_bytes_are_refused(tfmot: dict[str, Any], tmp_path: Path) -> None:
    splits = splits_of(4, 4)
    blurred = replace(splits, test=TensorDataset(splits.test.tensors[0] + 1e-3, splits.test.tensors[1]))
    with pytest.raises(ValueError, match="test: the images are not standardized bytes"):
        tfmot["images"].write_images(blurred, tmp_path / "images.npz")
    assert not list(tmp_path.iterdir())


def test_splits_are_cut_from_the_front(tfmot: dict[str, Any]) -> None:
    splits = splits_of(20, 10)
    cut = tfmot["images"].cut(splits, n_train=5, n_test=3)
    assert [len(part.tensors[1]) for part in (cut.train, cut.validation, cut.test)] == [5, 3, 3]
    assert torch.equal(cut.train.tensors[0], splits.train.tensors[0][:5])
    whole = tfmot["images"].cut(splits, n_train=None, n_test=None)
    assert whole.train is splits.train


def test_the_peer_trains_as_our_trainer_does(tfmot: dict[str, Any]) -> None:
    from dwindle.network import optimizers

    settings = tfmot["settings"]
    optimizer = optimizers.sgd([{"params": [torch.nn.Parameter(torch.zeros(1))]}], 0.1).defaults
    assert (optimizer["momentum"], optimizer["weight_decay"]) == (settings.MOMENTUM, settings.WEIGHT_DECAY)
    assert optimizer["nesterov"]
    assert optimizers.WARM_UP == settings.WARM_UP


def test_both_sides_have_the_same_stages(tfmot: dict[str, Any]) -> None:
    settings = tfmot["settings"]
    for chosen in (settings.FULL, settings.SMOKE):
        assert all(tuple(chosen.rates[side]) == settings.STAGES == tuple(chosen.epochs) for side in settings.SIDES)
        assert chosen.key("ours") != chosen.key("theirs")
    assert list(settings.FULL.epochs.values()) == [10, 3, 3, 3]


def test_our_recipe_is_accepted_and_counts_zero_as_a_level(tfmot: dict[str, Any]) -> None:
    settings = tfmot["settings"]
    context = tfmot["ours"].Run("ours", Path(), splits_of(8, 8), 0, settings.FULL, 1)._context(0)
    for scope in settings.SCOPES.values():
        stages = [tfmot["ours"].steps_of(s, settings.FULL, scope=scope, epochs=3, rate=0.1) for s in settings.STAGES]
        assert Recipe(tuple(step for steps in stages for step in steps)).check(context) == []
        assert stages[1][0].scope == scope
        assert stages[2][0].codebook_size + 1 == settings.FULL.n_levels


def outcome(side: str, seed: int, **changes: Any) -> Entry:
    right = np.arange(100) < {"ours": 90, "ours_global": 95, "theirs": 80}[side] + seed
    layer = {"n": 1000, "zeros": 0.8, "values": 15, "values_of_a_channel": 12}
    data: dict[str, Any] = {
        "side": side,
        "seed": seed,
        "key": side,
        "settings": {
            "epochs": {"dense": 10, "pruned": 3, "clustered": 3, "quantized": 3},
            "sparsity": 0.8,
            "n_levels": 16,
            "rates": {"dense": [0.2 if side == "theirs" else 0.1]},
        },
        "version": "1.2.3",
        "machine": "a machine",
        "n_threads": 1,
        "stages": [
            {
                "stage": "dense",
                "rate": 0.1,
                "tried": {},
                "curve": [{"seconds": 3600.0, "validation_accuracy": 0.875}] * 2,
            }
        ],
        "kept": {"a": layer, "b": {**layer, "n": 3000, "zeros": 0.4, "values": 60}},
        "file_bytes": 700_000 if side == "theirs" else 80_000,
        "validation_accuracy": 0.7,
        "answers": {"n": 100, "right": pack_bits(right)},
    }
    extra = {"onnx_bytes": 300_000, "onnx_zipped_bytes": 120_000}
    theirs = {"zipped_bytes": 100_000, "packages": {"tensorflow": "9.9"}}
    return Entry("peer_outcome", {**data, **(theirs if side == "theirs" else extra), **changes}, "2026-01-01T00:00:00")


def both(*seeds: int) -> list[Entry]:
    return [outcome(side, seed) for seed in seeds for side in ("ours", "theirs")]


def test_the_page_says_what_the_ledger_holds(tfmot: dict[str, Any]) -> None:
    entries = [*both(0, 1, 2), Entry("note", {"side": "ours"}, "")]
    text = tfmot["page"].page(entries, made_from="From here.")
    assert "From here." in text
    assert (
        "**0.800** [0.800, 0.800], the least and the greatest of the seeds; at most 0.9 was asked for: **met**" in text
    )
    assert "**+10.00 [" in text
    assert "asked for: **better**" in text
    assert "| 1 | 80,000 | 100,000 | 0.800 | 91.00 % | 81.00 % |" in text
    assert "| 2 | TFMOT | 50.00% | 40.00% | 60 | 12 |" in text
    assert "| dense | 87.50 | 0.1 | 87.50 | 0.1 |" in text
    assert "the 19 epochs of a seed took 2.0 h (dwindle, each layer), 2.0 h (TFMOT)" in text
    assert all(word in text for word in ("tensorflow 9.9", "a machine", "dwindle 1.2.3", "700,000", "300,000"))


def test_both_of_our_sides_stand_beside_theirs(tfmot: dict[str, Any]) -> None:
    entries = [*both(0, 1), *(outcome("ours_global", seed, file_bytes=70_000) for seed in (0, 1, 2))]
    text = tfmot["page"].page(entries)
    assert "- Zeros are 80% of each layer, as TFMOT prunes; seeds 0, 1. Bytes of our `.dwn` over" in text
    assert "- Zeros are 80% of all weights, ranked together; seeds 0, 1. Bytes of our `.dwn` over" in text
    assert "**+15.00 [" in text
    assert "| 1 | 70,000 | 100,000 | 0.700 | 96.00 % | 81.00 % |" in text
    assert "| 2 | 70,000" not in text  # of seed 2 the peer has no outcome
    assert text.count("| 1 | TFMOT |") == 1
    found = tfmot["page"].summary(tfmot["page"].comparisons_of(entries))["comparisons"]
    assert [(one["side"], one["seeds"]) for one in found] == [("ours", [0, 1]), ("ours_global", [0, 1])]


def test_the_page_can_be_made_from_its_script_alone(tfmot: dict[str, Any], repository: Path) -> None:
    script = runpy.run_path(str(repository / "benchmarks" / "tfmot" / "page.py"))  # as docs/generate.py does
    assert script["page"](both(0, 1)) == tfmot["page"].page(both(0, 1))


def test_the_summary_is_json_and_judges_the_worst_seed(tfmot: dict[str, Any]) -> None:
    entries = [*both(0, 1), outcome("ours", 2, file_bytes=95_000), outcome("theirs", 2)]
    (found,) = json.loads(json.dumps(tfmot["page"].summary(tfmot["page"].comparisons_of(entries))))["comparisons"]
    assert found["seeds"] == [0, 1, 2]
    assert found["bytes_ratio"]["greatest"] == pytest.approx(0.95)
    assert found["bytes_are_few_enough"] is False
    assert "**missed**" in tfmot["page"].page(entries)


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [(range(90), range(50), "better"), (range(50), range(90), "worse"), (range(50), range(50, 100), "no difference")],
)
def test_accuracy_is_judged_by_its_interval(tfmot: dict[str, Any], ours: range, theirs: range, word: str) -> None:
    def answers(chosen: range) -> dict[str, Any]:
        return {"n": 100, "right": pack_bits(np.isin(np.arange(100), chosen))}

    entries = [outcome("ours", s, answers=answers(ours)) for s in range(3)]
    entries += [outcome("theirs", s, answers=answers(theirs)) for s in range(3)]
    (found,) = tfmot["page"].comparisons_of(entries)
    assert found.summary()["accuracy"].startswith(word)


def test_only_seeds_of_both_sides_and_the_newest_outcomes_count(tfmot: dict[str, Any]) -> None:
    entries = [outcome("ours", 0, file_bytes=1), *both(0, 1), outcome("ours", 2)]
    (found,) = tfmot["page"].comparisons_of(entries)
    assert [pair.ours.seed for pair in found.pairs] == [0, 1]
    assert found.pairs[0].ratio == 0.8
    older = [outcome("theirs", 3, key="other settings"), *entries, outcome("ours", 3)]
    (found,) = tfmot["page"].comparisons_of(older)
    assert [pair.ours.seed for pair in found.pairs] == [0, 1]


def test_a_ledger_without_a_pair_or_of_two_settings_has_no_page(tfmot: dict[str, Any]) -> None:
    smoke = outcome("theirs", 0).data["settings"] | {"sparsity": 0.5}
    for entries in ([outcome("ours", 0)], [outcome("ours", 0), outcome("theirs", 0, settings=smoke)]):
        with pytest.raises(ValueError, match="no seed of both sides with the same settings"):
            tfmot["page"].page(entries)


@pytest.mark.slow
def test_our_side_keeps_every_zero_and_every_cluster(tfmot: dict[str, Any], tmp_path: Path) -> None:
    run = tfmot["ours"].Run("ours", tmp_path, splits_of(128, 64), 0, tfmot["settings"].SMOKE, 1)
    found = run.finish()
    assert len(found["kept"]) == 21
    for name, layer in found["kept"].items():
        assert layer["zeros"] >= 0.8 - 1 / layer["n"] ** 0.5, name
        assert 0 < layer["n_centroids"] <= 15, name
    assert found["answers"].shape == (64,)
    again = tfmot["ours"].Run("ours", tmp_path, splits_of(128, 64), 0, tfmot["settings"].SMOKE, 1).finish()
    assert again["file_bytes"] == found["file_bytes"]


@pytest.mark.slow
def test_their_side_runs(tfmot: dict[str, Any], repository: Path, tmp_path: Path) -> None:
    peer = os.environ.get("TFMOT_PYTHON")
    if peer is None:
        pytest.skip("TFMOT_PYTHON names no interpreter with TFMOT (benchmarks/tfmot/README.md)")
    tfmot["images"].write_images(splits_of(256, 100), tmp_path / "images.npz")
    script = str(repository / "benchmarks" / "tfmot" / "theirs.py")
    arguments = ["--images", "images.npz", "--folder", "peer", "--seed", "0", "--smoke"]
    subprocess.run([peer, script, *arguments], cwd=tmp_path, check=True, capture_output=True)
    result = json.loads((tmp_path / "peer" / "result.json").read_text())
    assert result["zipped_bytes"] < result["file_bytes"]
    assert len(result["kept"]) == 21
