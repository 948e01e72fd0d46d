"""This file tests sound folders: what samples become, who is in which split, and that a broken file is named."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import wavfile

from dwindle.data.log_mel import LogMel
from dwindle.data.wav_folders import SoundForm, load_wav_folder, read_sounds, speaker_set
from dwindle.errors import DataError, SettingError

RAW = SoundForm(seconds=0.01, sample_rate=8_000, features=None)
VALIDATION = ("8b775397", "2643992f", "060cd039", "f5e5e8b0", "dbb40d24", "d57febf0", "16db1582", "171b56dc")
TEST = ("2aa787cf", "ffa76c4a", "24ad3ebe", "d7467392", "5828dfa2", "91223b83", "f0ae7203", "95ba4996")
"""Speakers of the published validation_list.txt and testing_list.txt."""
TRAIN = ("0a7c2a8d", "00176480", "004ae714", "00f0204f", "012c8314", "0132a06d")


def put(path, samples, rate=8_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, np.asarray(samples))
    return path


def fill(root, *, classes=("no", "yes")):
    for label, name in enumerate(classes):
        for speaker in (*VALIDATION[:2], *TEST[:3], *TRAIN):
            put(root / name / f"{speaker}_nohash_0.wav", np.full(80, 1000 * (label + 1), dtype=np.int16))
    return root


def one(path, form=RAW):
    return read_sounds([path], form)[0, 0]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([0, 16384, -32768], np.int16), [0, 0.5, -1]),
        (np.array([0, 2**30, -(2**31)], np.int32), [0, 0.5, -1]),
        (np.array([128, 192, 0], np.uint8), [0, 0.5, -1]),
        (np.array([0, 0.5, -1], np.float32), [0, 0.5, -1]),
        (np.array([0, 0.5, -1], np.float64), [0, 0.5, -1]),
        (np.array([[0, 0], [32767, 1], [-32768, -32768]], np.int16), [0, 0.5, -1]),
    ],
    ids=["int16", "int32", "uint8", "float32", "float64", "stereo"],
)
def test_samples_become_minus_one_to_one(tmp_path, samples, expected):
    sound = one(put(tmp_path / "x.wav", samples))
    assert sound.dtype == torch.float32
    assert sound[:3].tolist() == pytest.approx(expected, abs=1e-6)


def test_24_bits(tmp_path):
    samples = b"".join(value.to_bytes(3, "little", signed=True) for value in (0, 2**22, -(2**23)))
    header = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 24000, 3, 24)
    body = b"WAVE" + header + struct.pack("<4sI", b"data", 9) + samples + b"\0"
    (tmp_path / "x.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert one(tmp_path / "x.wav")[:3].tolist() == [0, 0.5, -1]


def test_chunks_of_metadata_are_passed_over(tmp_path):
    content = put(tmp_path / "x.wav", np.array([16384], np.int16)).read_bytes()
    extra = struct.pack("<4sI", b"bext", 4) + b"abcd"
    (tmp_path / "x.wav").write_bytes(content[:4] + struct.pack("<I", len(content) - 8 + 12) + content[8:] + extra)
    assert one(tmp_path / "x.wav")[0] == 0.5


@given(st.integers(1, 200))
def test_short_sounds_are_filled_and_long_ones_cut_at_the_end(tmp_path_factory, n):
    sound = one(put(tmp_path_factory.mktemp("x") / "x.wav", np.arange(1, n + 1, dtype=np.int16)))
    assert sound.shape == (80,)
    assert (sound * 32768).tolist() == [*range(1, min(n, 80) + 1), *([0] * (80 - min(n, 80)))]


@pytest.mark.parametrize("rate", [16_000, 11_025, 44_100, 4_000])
def test_another_sample_rate_is_converted(tmp_path, rate):
    time = np.arange(rate // 5) / rate
    put(tmp_path / "x.wav", np.sin(2 * np.pi * 440 * time).astype(np.float32), rate)
    sound = one(tmp_path / "x.wav", SoundForm(seconds=0.1, sample_rate=8_000, features=None))
    expected = torch.sin(2 * math.pi * 440 * torch.arange(800) / 8_000)
    assert float((sound - expected)[40:].abs().max()) < 0.02


def test_features(tmp_path):
    put(tmp_path / "x.wav", np.random.default_rng(0).uniform(-1, 1, 16_000).astype(np.float32), 16_000)
    form = SoundForm()
    sounds = read_sounds([tmp_path / "x.wav"] * 3, form)
    assert sounds.shape == (3, *form.shape) == (3, 1, 40, 49)
    assert torch.isfinite(sounds).all()


@pytest.mark.parametrize("speaker", VALIDATION)
def test_published_validation_speakers(speaker):
    assert speaker_set(f"{speaker}_nohash_3.wav") == "validation"


@pytest.mark.parametrize("speaker", TEST)
def test_published_test_speakers(speaker):
    assert speaker_set(f"{speaker}_nohash_0.wav") == "test"


@given(st.text(st.characters(codec="ascii", exclude_characters="_/"), min_size=1), st.integers(0, 9), st.integers(0, 9))
def test_a_speaker_is_in_one_set(speaker, first, second):
    assert speaker_set(f"{speaker}_nohash_{first}.wav") == speaker_set(f"{speaker}_nohash_{second}.wav")


def test_shares_are_those_asked_for():
    sets = [speaker_set(f"{number:08x}_nohash_0.wav", validation_percent=20, test_percent=5) for number in range(4000)]
    assert abs(sets.count("validation") / 4000 - 0.2) < 0.02
    assert abs(sets.count("test") / 4000 - 0.05) < 0.01


def test_three_splits_by_speaker(tmp_path):
    root = fill(tmp_path / "speech")
    put(root / "_background_noise_" / "noise.wav", np.zeros(80, np.int16))
    splits = load_wav_folder(root, form=RAW)
    assert splits.name == "speech"
    assert splits.class_names == ("no", "yes")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [12, 4, 6]
    inputs, targets = splits.train.tensors
    assert torch.equal((inputs[:, 0, 0] * 32768).long(), 1000 * (targets + 1))


def test_lists_decide_where_they_are(tmp_path):
    root = fill(tmp_path)
    (root / "validation_list.txt").write_text(f"no/{TRAIN[0]}_nohash_0.wav\r\nabsent/x.wav\n\n")
    (root / "testing_list.txt").write_text(f"yes/{TRAIN[1]}_nohash_0.wav\nyes/{TRAIN[2]}_nohash_0.wav")
    splits = load_wav_folder(root, form=RAW)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [19, 1, 2]
    assert splits.test.tensors[1].tolist() == [1, 1]


def test_one_list_alone_is_an_error(tmp_path):
    (fill(tmp_path) / "testing_list.txt").write_text("x")
    with pytest.raises(DataError, match=r"validation_list\.txt cannot be read .*give both"):
        load_wav_folder(tmp_path, form=RAW)


def test_a_file_in_both_lists_is_an_error(tmp_path):
    for name in ("validation_list.txt", "testing_list.txt"):
        (fill(tmp_path) / name).write_text("no/x.wav")
    with pytest.raises(DataError, match=r"no/x\.wav is in validation_list\.txt and in testing_list\.txt"):
        load_wav_folder(tmp_path, form=RAW)


def test_too_few_speakers(tmp_path):
    for name in ("a", "b"):
        put(tmp_path / name / f"{TRAIN[0]}_nohash_0.wav", np.zeros(80, np.int16))
    with pytest.raises(DataError, match="has no validation files: the 2 files are of too few speakers"):
        load_wav_folder(tmp_path, form=RAW)


def test_more_than_the_limit_is_refused_before_reading(tmp_path):
    (fill(tmp_path) / "no" / f"{TRAIN[0]}_nohash_0.wav").write_bytes(b"broken")
    form = SoundForm(seconds=0.01, sample_rate=8_000, features=None, max_bytes=22 * 80 * 4 - 1)
    with pytest.raises(DataError, match=r"22 sounds of \(1, 80\) take .* more than the limit"):
        load_wav_folder(tmp_path, form=form)


def riff(samples=b"\0\0", *, rate=8_000, n_channels=1, n_bits=16, n_promised=None, tag=1):
    header = struct.pack(
        "<4sIHHIIHH", b"fmt ", 16, tag, n_channels, rate, rate, (n_channels * n_bits // 8) % 2**16, n_bits
    )
    length = len(samples) if n_promised is None else n_promised
    body = b"WAVE" + header + struct.pack("<4sI", b"data", length) + samples
    return b"RIFF" + struct.pack("<I", len(body) - len(samples) + length) + body


@pytest.mark.parametrize(
    "content",
    [
        b"", b"text", b"RIFF", riff()[:30], riff(b"\0\0" * 50)[:-20], riff(b""), riff(rate=0), riff(rate=2**31),
        riff(n_channels=0), riff(n_bits=0), riff(n_promised=2**31), riff(tag=7), riff(n_channels=65535),
    ],
    ids=["empty", "text", "head", "no data", "cut", "no sample", "rate 0", "rate 2 GHz", "0 channels", "0 bits",
         "2 GB promised", "mu-law", "65535 channels"],
)  # fmt: skip
def test_a_broken_file_is_named(tmp_path, content):
    (fill(tmp_path) / "yes" / f"{TEST[0]}_nohash_0.wav").write_bytes(content)
    with pytest.raises(DataError, match=r"yes/2aa787cf_nohash_0\.wav is not a WAV file that can be used .*replace"):
        load_wav_folder(tmp_path, form=RAW)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path, value):
    with pytest.raises(DataError, match=r"x\.wav .*NaN or infinite samples"):
        one(put(tmp_path / "x.wav", np.array([0, value], np.float32)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seconds": 0}, "0 s at 16000 Hz hold no sample"),
        ({"seconds": math.nan}, "nan s at 16000 Hz hold no sample"),
        ({"seconds": math.inf}, "hold no sample"),
        ({"sample_rate": 0, "features": None}, "hold no sample"),
        ({"sample_rate": 8_000}, "features are for 16000 Hz and sounds for 8000 Hz"),
        ({"seconds": 0.02}, "0.02 s are shorter than one window of 30.0 ms"),
        ({"validation_percent": 60, "test_percent": 40}, "must leave some training data"),
        ({"validation_percent": -1}, "must leave some training data"),
    ],
)
def test_forms_that_cannot_be(settings, words):
    with pytest.raises(SettingError, match=words):
        SoundForm(**settings)


def test_features_of_another_rate_fit_their_form():
    assert SoundForm(sample_rate=8_000, features=LogMel(sample_rate=8_000)).shape == (1, 40, 49)
