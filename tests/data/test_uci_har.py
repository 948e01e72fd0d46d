"""This file tests the UCI-HAR loader: text, zip and npz give the same windows; people stay in one set."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import torch

from dwindle.data import uci_har_files as files
from dwindle.data.locate import cache_folder
from dwindle.data.uci_har import CLASS_NAMES, MEAN, STD, load_uci_har
from dwindle.data.uci_har_files import SIGNALS, read_windows, write_npz
from dwindle.errors import DataError, SettingError

PEOPLE = {"train": (1, 7, 3), "test": (2,)}
COUNTS = {"train": (6,) * 6, "test": (2,) * 6}
FIELDS = ("x", "y", "subject", "chain")


def rows(part):
    """Return signals, labels 1..6 and people: two overlapping windows for each person and activity."""
    generator = np.random.default_rng(len(part))
    signals, labels, people = [], [], []
    for person in PEOPLE[part]:
        for label in range(1, 7):
            long = generator.normal(size=(9, 192)).round(7)
            signals += [long[:, :128], long[:, 64:]]
            labels += [label] * 2
            people += [person] * 2
    return np.array(signals), np.array(labels), np.array(people)


def texts(*, order=None):
    """Return the official layout as name to text."""
    made = {}
    for part in PEOPLE:
        signals, labels, people = rows(part)
        chosen = range(len(labels)) if order is None else order(len(labels))
        for number, signal in enumerate(SIGNALS):
            lines = ["  " + " ".join(f"{value:.7e}" for value in signals[row, number]) for row in chosen]
            made[f"{part}/Inertial Signals/{signal}_{part}.txt"] = "\n".join(lines) + "\n"
        made[f"{part}/y_{part}.txt"] = "\n".join(str(labels[row]) for row in chosen)
        made[f"{part}/subject_{part}.txt"] = "\n".join(str(people[row]) for row in chosen)
    return made


def write(folder, made):
    for name, text in made.items():
        path = folder / "UCI HAR Dataset" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def zipped(made):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in made.items():
            packed.writestr(name, content)
    return buffer.getvalue()


def official_zip(made):
    inner = {f"UCI HAR Dataset/{name}": text for name, text in made.items()}
    return zipped({"UCI HAR Dataset.zip": zipped(inner | {"__MACOSX/x": ""}), "UCI HAR Dataset.names": "x"})


def same(one, other, fields=FIELDS):
    return all(np.array_equal(getattr(one[part], name), getattr(other[part], name)) for part in one for name in fields)


@pytest.fixture(autouse=True)
def _small(monkeypatch, nowhere):
    monkeypatch.setattr(files, "CLASS_COUNTS", COUNTS)


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "text", texts())


def test_three_splits(folder):
    splits = load_uci_har(folder, validation_subjects=(7,))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [24, 12, 12]
    assert splits.class_names == CLASS_NAMES
    inputs, targets = splits.test.tensors
    assert inputs.shape == (12, 9, 128)
    assert inputs.dtype == torch.float32
    assert targets.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    signals, _, _ = rows("test")
    for signal in range(9):
        assert float(inputs[0, signal, 5]) == pytest.approx(
            (signals[0, signal, 5] - MEAN[signal]) / STD[signal], rel=1e-5
        )


def test_units_stay_without_standardization(folder):
    splits = load_uci_har(folder, standardize=False, validation_subjects=(7,))
    assert torch.allclose(splits.test.tensors[0], torch.from_numpy(rows("test")[0]).float())


def test_the_published_layout_is_the_reshape_without_a_transpose(folder):
    plain = load_uci_har(folder, validation_subjects=(7,)).test.tensors[0]
    scrambled = load_uci_har(folder, validation_subjects=(7,), published_layout=True).test.tensors[0]
    assert scrambled.shape == plain.shape
    assert scrambled[3].flatten()[:18].tolist() == plain[3, :, 0].tolist() + plain[3, :, 1].tolist()


def test_the_order_of_rows_does_not_matter(tmp_path, folder):
    other = write(tmp_path / "other", texts(order=lambda n: np.random.default_rng(3).permutation(n)))
    assert same(read_windows(folder), read_windows(other))


def test_chains_are_runs_of_overlapping_windows(folder):
    windows = read_windows(folder)
    assert windows["train"].chain.tolist() + windows["test"].chain.tolist() == [
        *(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5),
        *(12, 12, 13, 13, 14, 14, 15, 15, 16, 16, 17, 17),
        *(18, 18, 19, 19, 20, 20, 21, 21, 22, 22, 23, 23),
        *(6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11),
    ]
    assert np.array_equal(windows["train"].x[0, :, 64:], windows["train"].x[1, :, :64])


def test_windows_that_follow_themselves_or_each_other_end():
    still = np.zeros((3, 9, 128), dtype=np.float32)
    chain, time = files._chains(still, ["a", "a", "b"])
    assert (chain[0] != chain[2], len(time)) == (True, 3)
    first, second = np.zeros((9, 64)), np.ones((9, 64))
    ring = np.stack([np.hstack([first, second]), np.hstack([second, first])]).astype(np.float32)
    chain, time = files._chains(ring, ["a", "a"])
    assert (chain.tolist(), time.tolist()) == ([0, 0], [0, 1])


@pytest.mark.parametrize("name", files.ZIP_NAMES)
def test_the_zip_and_the_folder_within_give_the_same(tmp_path, folder, name):
    (tmp_path / "zip").mkdir()
    (tmp_path / "zip" / name).write_bytes(official_zip(texts()))
    assert same(read_windows(folder), read_windows(tmp_path / "zip"))
    assert same(read_windows(folder), read_windows(folder / "UCI HAR Dataset"))


def test_the_npz_gives_the_same_in_the_form_that_is_described(tmp_path, folder):
    windows = read_windows(folder)
    write_npz(windows, tmp_path / "npz" / "uci-har.npz")
    assert same(windows, read_windows(tmp_path / "npz"))
    with np.load(tmp_path / "npz" / "uci-har.npz", allow_pickle=False) as arrays:
        assert {name: (str(arrays[name].dtype), arrays[name].shape) for name in arrays} == {
            "x_train": ("float32", (36, 9, 128)), "y_train": ("uint8", (36,)),
            "subject_train": ("uint8", (36,)), "chain_train": ("uint16", (36,)),
            "x_test": ("float32", (12, 9, 128)), "y_test": ("uint8", (12,)),
            "subject_test": ("uint8", (12,)), "chain_test": ("uint16", (12,)),
        }  # fmt: skip


def fetch(content):
    def download(_url, path, *, checksum):
        assert checksum is None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return download


def test_a_download_is_kept_as_npz(monkeypatch, folder):
    monkeypatch.setattr(files, "download", fetch(official_zip(texts())))
    load_uci_har(validation_subjects=(7,))
    assert [path.name for path in cache_folder("uci-har").iterdir()] == ["uci-har.npz"]
    monkeypatch.setattr(files, "download", lambda *_, **__: pytest.fail("it is downloaded again"))
    assert len(load_uci_har(validation_subjects=(7,)).test) == 12


@pytest.mark.parametrize(
    "content", [b"no zip", official_zip({"a": "b"}), zipped({"x": "y"})], ids=["junk", "inner", "zip"]
)
def test_a_download_of_something_else_is_refused_and_not_kept(monkeypatch, content):
    monkeypatch.setattr(files, "download", fetch(content))
    with pytest.raises(DataError, match=r"zip archive|lacks UCI HAR Dataset/"):
        load_uci_har()
    assert not list(cache_folder("uci-har").iterdir())


def damage(name, change):
    return {name: change(texts()[name])}


X = "train/Inertial Signals/body_gyro_y_train.txt"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            damage(X, lambda text: text.replace("e", "x", 1)),
            "body_gyro_y_train.txt of UCI-HAR is not a table of numbers",
        ),
        (damage(X, lambda text: text.rsplit(" ", 1)[0]), "is not a table of numbers"),
        (damage(X, lambda text: text.split("\n", 1)[1]), r"the train files of UCI-HAR have \[35, 36\] rows"),
        (damage(X, lambda _: ""), r"have \[0, 36\] rows"),
        (damage(X, lambda text: "\n".join(line.rsplit(" ", 1)[0] for line in text.splitlines())), "has 127 columns"),
        (damage(X, lambda text: "nan " + text.split(maxsplit=1)[1]), "1 of 24 uci-har training inputs hold NaN"),
        (damage("test/y_test.txt", lambda text: text.replace("6", "7")), "y_test.txt holds other values than 1 to 6"),
        (damage("test/y_test.txt", lambda text: text.replace("6", "1.5")), "y_test.txt holds other values"),
        (
            damage("test/y_test.txt", lambda text: text.replace("6", "5")),
            r"\(2, 2, 2, 2, 4, 0\) test windows an activity",
        ),
        (damage("test/subject_test.txt", lambda text: text.replace("2", "31")), "subject_test.txt holds other values"),
        (
            damage("test/subject_test.txt", lambda text: text.replace("2", "3")),
            r"people \[3\] are in the training set and",
        ),
    ],
)
def test_damaged_text_is_named(folder, changed, words):
    write(folder, changed)
    with pytest.raises(DataError, match=words):
        load_uci_har(folder, validation_subjects=(7,))


def test_a_signal_that_is_absent_is_named(folder):
    (folder / "UCI HAR Dataset" / X).unlink()
    with pytest.raises(DataError, match=r"body_gyro_y_train\.txt cannot be read \(No such file"):
        load_uci_har(folder)


def test_a_folder_of_something_else_says_what_is_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"holds neither uci-har\.npz nor the folder UCI HAR Dataset nor human"):
        load_uci_har(tmp_path)


def broken_arrays():
    good = {"x": np.zeros((36, 9, 128), np.float32), "y": np.zeros(36, np.uint8)}
    good |= {"subject": good["y"], "chain": good["y"].astype(np.uint16)}
    return {f"{name}_{part}": values for part in ("train", "test") for name, values in good.items()}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"x_train": np.zeros((36, 128, 9), np.float32)},
            r"x_train is float32 \(36, 128, 9\), not float32 \(36, 9, 128\)",
        ),
        ({"x_train": np.zeros((36, 9, 128))}, "x_train is float64"),
        ({"y_train": np.zeros(35, np.uint8)}, r"y_train is uint8 \(35,\)"),
        ({"y_train": np.zeros(36, np.int8)}, "y_train is int8"),
        ({}, r"\(36, 0, 0, 0, 0, 0\) train windows an activity"),
        ({"y_train": np.full(36, 200, np.uint8)}, "train windows an activity"),
        ({"x_train": np.array([{}], dtype=object)}, "is not the npz file of UCI-HAR .*allow_pickle"),
    ],
)
def test_a_damaged_npz_is_named(tmp_path, changed, words):
    np.savez_compressed(tmp_path / "uci-har.npz", **(broken_arrays() | changed))
    with pytest.raises(DataError, match=words):
        load_uci_har(tmp_path)


def test_an_npz_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 10**6)
    np.savez_compressed(tmp_path / "uci-har.npz", **broken_arrays(), more=np.zeros(10**6, np.int8))
    with pytest.raises(DataError, match=r"it unpacks to [0-9,]* bytes"):
        load_uci_har(tmp_path)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\3\4"])
def test_what_is_no_npz_is_named(tmp_path, content):
    (tmp_path / "uci-har.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"uci-har\.npz is not the npz file of UCI-HAR"):
        load_uci_har(tmp_path)


@pytest.mark.parametrize("chosen", [(), (2,), (1, 7, 3), (7, 8)])
def test_people_who_cannot_validate(folder, chosen):
    with pytest.raises(SettingError, match=r"must be some but not all people of the training set: \[1, 3, 7\]"):
        load_uci_har(folder, validation_subjects=chosen)
