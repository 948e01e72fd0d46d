"""This file tests log-mel features against sums written out by hand, and what silence and pure tones become."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle.data.log_mel import LogMel, log_mel, mel_bands
from dwindle.errors import DataError, SettingError


def tone(hertz, *, n=16_000, rate=16_000):
    return torch.sin(2 * math.pi * hertz * torch.arange(n) / rate)[None]


def test_against_sums_written_out():
    settings = LogMel(sample_rate=8_000, n_mels=7, window_ms=16, hop_ms=10)
    sound = np.random.default_rng(0).uniform(-1, 1, 600)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(128) / 128)
    expected = np.empty((7, 6))
    edges = [700 * (10 ** (m / 2595) - 1) for m in np.linspace(*(2595 * np.log10(1 + f / 700) for f in (20, 4000)), 9)]
    for frame in range(6):
        spectrum = np.abs(np.fft.rfft(sound[frame * 80 : frame * 80 + 128] * window)) ** 2 / (window**2).sum()
        for band in range(7):
            energy = 0.0
            for number, power in enumerate(spectrum):
                hertz = number * 8000 / 128
                if edges[band] < hertz <= edges[band + 1]:
                    energy += power * (hertz - edges[band]) / (edges[band + 1] - edges[band])
                elif edges[band + 1] < hertz < edges[band + 2]:
                    energy += power * (edges[band + 2] - hertz) / (edges[band + 2] - edges[band + 1])
            expected[band, frame] = np.log(energy + 1e-6)
    found = log_mel(torch.from_numpy(sound)[None], settings)[0]
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy(), expected, atol=1e-3)


def test_one_second_of_the_default():
    assert log_mel(torch.zeros(3, 16_000), LogMel()).shape == (3, 40, 49)


def test_silence_is_the_floor():
    assert torch.allclose(log_mel(torch.zeros(1, 16_000), LogMel()), torch.tensor(math.log(1e-6)))


@given(st.floats(100, 7500))
def test_a_tone_is_loudest_in_the_band_around_it(hertz):
    settings = LogMel()
    loudest = int(log_mel(tone(hertz), settings)[0].mean(1).argmax())
    weights = mel_bands(settings, 512)[loudest]
    assert float(weights[round(hertz / 16_000 * 512)]) > 0.2


def test_ten_times_the_amplitude_is_a_hundred_times_the_energy():
    quiet, loud = (log_mel(scale * tone(1000), LogMel(floor=1e-12)) for scale in (0.1, 1.0))
    assert float((loud - quiet).amax(1).mean()) == pytest.approx(math.log(100), rel=0.01)


def test_bands_cover_the_range_without_a_gap():
    weights = mel_bands(LogMel(), 512)
    total = weights.sum(0)
    centres = weights.argmax(1)
    assert torch.equal(centres, centres.sort().values)
    assert float(total[int(centres[0]) + 1 : int(centres[-1])].min()) > 0.99
    assert float(total.max()) < 1.01


def test_each_sound_alone_gives_the_same():
    sounds = torch.rand(4, 2000, generator=torch.Generator().manual_seed(0)) - 0.5
    together = log_mel(sounds, LogMel())
    for row in range(4):
        assert torch.allclose(log_mel(sounds[row : row + 1], LogMel())[0], together[row], atol=1e-5)


def test_too_short():
    assert LogMel().n_frames(479) == 0
    assert log_mel(torch.zeros(1, 480), LogMel()).shape == (1, 40, 1)
    with pytest.raises(DataError, match="479 samples are less than one window of 480"):
        log_mel(torch.zeros(1, 479), LogMel())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_mels": 0}, "0 bands"),
        ({"window_ms": 0.05}, "windows of 0.05 ms"),
        ({"hop_ms": 0}, "every 0 ms"),
        ({"hop_ms": math.inf}, "every inf ms"),
        ({"window_ms": math.nan}, "windows of nan ms"),
        ({"sample_rate": 0}, "0 Hz"),
        ({"low_hz": -1}, r"bands from -1 to 8000.0 Hz must lie in \[0, 8000.0\]"),
        ({"low_hz": 9000}, "bands from 9000"),
        ({"high_hz": 8001}, "to 8001 Hz"),
        ({"low_hz": float("nan")}, "bands from nan"),
        ({"floor": 0}, "floor must be positive"),
        ({"floor": float("nan")}, "floor must be positive"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(SettingError, match=words):
        LogMel(**settings)


def test_bands_that_would_hold_nothing():
    with pytest.raises(
        SettingError, match=r"of 200 bands are narrower than the 31 Hz that a window of 30.0 ms resolves"
    ):
        log_mel(tone(1000), LogMel(n_mels=200))
