"""This file turns sound into log-mel features: the energy in bands as wide as hearing resolves them, frame by frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dwindle.errors import DataError, SettingError


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMel:
    """Settings of `log_mel`; the defaults suit keyword spotting on a microcontroller.

    Attributes:
        sample_rate: of the sound, in Hz.
        n_mels: number of bands.
        window_ms: length of a frame.
        hop_ms: from one frame to the next.
        low_hz: lower edge of the first band.
        high_hz: upper edge of the last band; half the sample rate without it.
        floor: added to every energy before the logarithm, so that silence stays finite.

    Raises:
        SettingError: a length, number or frequency cannot be.
    """

    sample_rate: int = 16_000
    n_mels: int = 40
    window_ms: float = 30.0
    hop_ms: float = 20.0
    low_hz: float = 20.0
    high_hz: float | None = None
    floor: float = 1e-6

    def __post_init__(self) -> None:
        lengths = (self.window_ms, self.hop_ms)
        is_finite = all(math.isfinite(length) for length in lengths)
        if not is_finite or self.sample_rate < 1 or self.n_mels < 1 or self.window < 2 or self.hop < 1:
            raise SettingError(
                f"LogMel: a sample rate of {self.sample_rate} Hz, {self.n_mels} bands, windows of {self.window_ms} ms "
                f"every {self.hop_ms} ms cannot be; each must be positive and a window hold at least 2 samples"
            )
        if not 0 <= self.low_hz < self.upper_hz <= self.sample_rate / 2:
            raise SettingError(
                f"LogMel: bands from {self.low_hz} to {self.upper_hz} Hz must lie in [0, {self.sample_rate / 2}] Hz"
            )
        if not self.floor > 0:
            raise SettingError(f"LogMel: floor must be positive, got {self.floor}")

    @property
    def window(self) -> int:
        """Samples in a frame."""
        return round(self.sample_rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return round(self.sample_rate * self.hop_ms / 1000)

    @property
    def upper_hz(self) -> float:
        """Upper edge of the last band."""
        return self.sample_rate / 2 if self.high_hz is None else self.high_hz

    def n_frames(self, n_samples: int) -> int:
        """Return the number of whole frames in a sound.

        >>> LogMel().n_frames(16_000)
        49
        """
        return 0 if n_samples < self.window else 1 + (n_samples - self.window) // self.hop


def log_mel(waveforms: Tensor, settings: LogMel) -> Tensor:
    """Return the natural logarithm of the energy in each band of each frame.

    Each whole frame is weighted by a Hann window; its power spectrum, divided by the sum of the squared window, is
    summed by triangular bands that are equally wide in mel and reach 1 at their centres.

    Args:
        waveforms: (batch, samples) in [-1, 1].
        settings: frames and bands.

    Returns:
        float32 (batch, n_mels, n_frames).

    Raises:
        DataError: the sound is shorter than one window.
    """
    if waveforms.shape[-1] < settings.window:
        raise DataError(
            f"{waveforms.shape[-1]} samples are less than one window of {settings.window}; pass longer sound or "
            "a smaller window_ms"
        )
    window = torch.hann_window(settings.window, device=waveforms.device)
    frames = waveforms.float().unfold(-1, settings.window, settings.hop) * window
    n_fft = 2 ** math.ceil(math.log2(settings.window))
    power = torch.fft.rfft(frames, n=n_fft).abs().square() / window.square().sum()
    energy = power @ mel_bands(settings, n_fft).to(waveforms.device).T
    return (energy + settings.floor).log().transpose(-1, -2)


def mel_bands(settings: LogMel, n_fft: int) -> Tensor:
    """Return the weights (n_mels, n_fft // 2 + 1) of the triangular bands.

    The scale is mel = 2595 log10(1 + f / 700 Hz) (O'Shaughnessy, 1987).

    Raises:
        SettingError: a band is narrower than the spectrum resolves, so that it would hold nothing.
    """
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (settings.low_hz, settings.upper_hz))
    mels = torch.linspace(low, high, settings.n_mels + 2, dtype=torch.float64)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * settings.sample_rate / n_fft
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    weights = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp(min=0)
    if empty := int((weights.sum(1) == 0).sum()):
        raise SettingError(
            f"LogMel: {empty} of {settings.n_mels} bands are narrower than the {settings.sample_rate / n_fft:.0f} Hz "
            f"that a window of {settings.window_ms} ms resolves; take fewer bands or a longer window"
        )
    return weights.float()
