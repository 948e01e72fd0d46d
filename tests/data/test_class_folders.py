"""This file tests the listing of class folders and the splits that hold every class at its share."""

from __future__ import annotations

import itertools
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle.data.class_folders import list_classes, stratified
from dwindle.errors import DataError, SettingError


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def listed(root, **settings):
    listing = list_classes(root, suffixes=(".png", ".jpg"), **settings)
    return [
        (path.relative_to(root).as_posix(), int(label))
        for path, label in zip(listing.paths, listing.labels, strict=True)
    ]


def test_classes_and_files_are_sorted(tmp_path):
    make(tmp_path, "b/2.png", "b/10.JPG", "a/x.png", "a/deep/y.jpg", "loose.png")
    assert list_classes(tmp_path, suffixes=(".png",)).class_names == ("a", "b")
    assert listed(tmp_path) == [("a/deep/y.jpg", 0), ("a/x.png", 0), ("b/10.JPG", 1), ("b/2.png", 1)]


def test_hidden_and_other_files_are_left_out(tmp_path):
    make(tmp_path, "a/1.png", "a/.2.png", "a/_3.png", "a/4.txt", "a/Thumbs.db", ".git/1.png", "_noise_/1.png")
    assert listed(tmp_path) == [("a/1.png", 0)]


def test_links_to_folders_are_not_followed(tmp_path):
    make(tmp_path, "a/1.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert listed(tmp_path) == [("a/1.png", 0)]


def test_named_classes_keep_their_order(tmp_path):
    make(tmp_path, "a/1.png", "b/1.png", "c/1.png")
    assert listed(tmp_path, class_names=("c", "a")) == [("c/1.png", 0), ("a/1.png", 1)]
    with pytest.raises(DataError, match=r"class folder .*/d does not exist"):
        listed(tmp_path, class_names=("a", "d"))


@given(st.integers(1, 40), st.integers(1, 40))
def test_max_per_class_takes_evenly(tmp_path_factory, n, most):
    root = make(tmp_path_factory.mktemp("x"), *(f"a/{number:02}.png" for number in range(n)))
    numbers = [int(name[2:4]) for name, _ in listed(root, max_per_class=most)]
    assert len(set(numbers)) == len(numbers) == min(n, most)
    gaps = [b - a for a, b in itertools.pairwise(numbers)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert numbers[0] == 0


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ((), "holds no class folder"),
        (("1.png",), "holds no class folder"),
        (("a/1.gif",), "a holds no file ending in .png"),
    ],
)
def test_nothing_to_list(tmp_path, files, words):
    with pytest.raises(DataError, match=words):
        listed(make(tmp_path, *files))


def test_what_is_no_folder(tmp_path):
    make(tmp_path, "x")
    for name in ("x", "y"):
        with pytest.raises(DataError, match=f"{name} is not a folder"):
            listed(tmp_path / name)
    with pytest.raises(SettingError, match=r"\('a', 'a'\) name a folder twice"):
        listed(tmp_path, class_names=("a", "a"))
    with pytest.raises(SettingError, match="max_per_class must be at least 1, got 0"):
        listed(tmp_path, max_per_class=0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_folders_that_cannot_be_read_are_named(tmp_path):
    make(tmp_path, "a/b/1.png")
    for folder in (tmp_path / "a" / "b", tmp_path):
        folder.chmod(0)
        with pytest.raises(DataError, match=f"{folder} cannot be read"):
            listed(tmp_path)
        folder.chmod(0o700)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=120),
    st.lists(st.floats(0.01, 0.4), min_size=1, max_size=2),
    st.integers(0, 9),
)
def test_parts_are_disjoint_whole_and_hold_every_class_at_its_share(labels, fractions, seed):
    labels = torch.tensor(labels)
    wanted = {str(number): fraction for number, fraction in enumerate(fractions)}
    try:
        parts = stratified(labels, wanted, seed=seed)
    except DataError:
        assert int(labels.bincount()[labels.unique()].min()) < 10
        return
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(len(labels)))
    for name, fraction in wanted.items():
        for label in labels.unique():
            n, n_all = int((labels[parts[name]] == label).sum()), int((labels == label).sum())
            assert n == max(1, round(fraction * n_all))
    again = stratified(labels, wanted, seed=seed)
    assert all(torch.equal(parts[name], again[name]) for name in parts)


def test_another_seed_draws_others():
    labels = torch.zeros(100).long()
    assert not torch.equal(stratified(labels, {"x": 0.5})["x"], stratified(labels, {"x": 0.5}, seed=1)["x"])


def test_too_few_to_split():
    with pytest.raises(DataError, match="class 1 has 2 examples, too few to split into 3 parts"):
        stratified(torch.tensor([0] * 9 + [1] * 2), {"a": 0.2, "b": 0.1})


@pytest.mark.parametrize("fractions", [{"a": 0.0}, {"a": -0.1}, {"a": 1.0}, {"a": 0.6, "b": 0.4}])
def test_fractions_that_leave_nothing(fractions):
    with pytest.raises(SettingError, match="must be positive and leave something"):
        stratified(torch.zeros(9).long(), fractions)
