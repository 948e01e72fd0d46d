"""This file loads WAV files that lie in one folder a class, such as Speech Commands (Warden, 2018; CC BY 4.0).

Files are read by `scipy.io.wavfile`, which dwindle depends on anyway: integer PCM of any depth and floats; other
encodings and file types are refused. Which split a file belongs to is told by `validation_list.txt` and
`testing_list.txt` where they are there, otherwise by the rule with which Speech Commands made them: by a hash of the
speaker, so that nobody is in two splits and a file stays in its split when others are added.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from dwindle.data.class_folders import Listing, list_classes
from dwindle.data.log_mel import LogMel, log_mel
from dwindle.data.splits import Splits
from dwindle.errors import DataError, SettingError

SUFFIXES: Final = (".wav",)
LISTS: Final = {"validation": "validation_list.txt", "test": "testing_list.txt"}
SPEAKER_END: Final = "_nohash_"
"""What stands before it in a file's name is the speaker."""
MAX_BYTES: Final = 8 << 30
_HASH_RANGE: Final = 2**27
_LOWEST_RATE: Final = 1_000
_HIGHEST_RATE: Final = 768_000
_MARGIN_SECONDS: Final = 0.1
"""Read beyond the cut, so that resampling does not fade into it."""
_CHUNK: Final = 512
"""Files whose features are computed at once."""


@dataclass(frozen=True, kw_only=True)
class SoundForm:
    """What sounds become.

    Attributes:
        seconds: length; longer sounds are cut at the end, shorter ones filled with silence there.
        sample_rate: in Hz; files with another are resampled (`scipy.signal.resample_poly`).
        features: log-mel settings, with the same sample rate; None keeps the waveform.
        validation_percent: of the speakers, where no lists are there.
        test_percent: of the speakers, where no lists are there.
        max_bytes: refuse to load more than this into memory; counted before anything is read.

    Raises:
        SettingError: a value cannot be, or the sample rates differ.
    """

    seconds: float = 1.0
    sample_rate: int = 16_000
    features: LogMel | None = field(default_factory=LogMel)
    validation_percent: float = 10.0
    test_percent: float = 10.0
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        if not math.isfinite(self.seconds) or self.sample_rate < 1 or self.n_samples < 1:
            raise SettingError(f"SoundForm: {self.seconds} s at {self.sample_rate} Hz hold no sample")
        if self.features is not None and self.features.sample_rate != self.sample_rate:
            raise SettingError(
                f"SoundForm: features are for {self.features.sample_rate} Hz and sounds for {self.sample_rate} Hz; "
                "make them the same"
            )
        if self.features is not None and self.features.n_frames(self.n_samples) < 1:
            raise SettingError(
                f"SoundForm: {self.seconds} s are shorter than one window of {self.features.window_ms} ms"
            )
        percents = (self.validation_percent, self.test_percent)
        if min(percents) < 0 or sum(percents) >= 100:
            raise SettingError(
                f"SoundForm: validation_percent and test_percent {percents} must leave some training data"
            )

    @property
    def n_samples(self) -> int:
        """Samples in each sound."""
        return round(self.seconds * self.sample_rate)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input: (1, n_mels, n_frames), or (1, n_samples) for waveforms."""
        if self.features is None:
            return (1, self.n_samples)
        return (1, self.features.n_mels, self.features.n_frames(self.n_samples))


def load_wav_folder(
    root: Path,
    *,
    form: SoundForm | None = None,
    class_names: Sequence[str] | None = None,
    max_per_class: int | None = None,
) -> Splits:
    """Return the sounds of `root` in three splits, float32 (1, n_mels, n_frames) or, without features, (1, n_samples).

    Args:
        root: holds one folder a class and perhaps the two lists.
        form: what sounds become.
        class_names: the folders that are classes; without it all whose names begin with neither `_` nor `.`.
        max_per_class: takes this many files of each class.

    Raises:
        DataError: a folder, class or split is absent or empty, a file is broken, or there are too many for the memory
            limit.
    """
    form, root = form or SoundForm(), Path(root).expanduser()
    listing = list_classes(root, suffixes=SUFFIXES, class_names=class_names, max_per_class=max_per_class)
    n_bytes = 4 * len(listing.paths) * int(np.prod(form.shape))
    if n_bytes > form.max_bytes:
        raise DataError(
            f"{len(listing.paths):,} sounds of {form.shape} take {n_bytes / 2**30:,.1f} GiB, more than the limit of "
            f"{form.max_bytes / 2**30:,.1f} GiB; pass fewer seconds, max_per_class or a larger max_bytes"
        )
    sets = _sets(listing, root, form)
    parts = {name: listing.part(torch.tensor([s == name for s in sets]).nonzero().flatten()) for name in set(sets)}
    for name in ("train", "validation", "test"):
        if name not in parts:
            raise DataError(
                f"{root} has no {name} files: the {len(sets):,} files are of too few speakers for three splits; "
                f"add files, or {' and '.join(LISTS.values())}"
            )
    whole = {name: TensorDataset(read_sounds(part.paths, form), part.labels) for name, part in parts.items()}
    return Splits(name=root.name, class_names=listing.class_names, **whole)


def speaker_set(name: str, *, validation_percent: float = 10.0, test_percent: float = 10.0) -> str:
    """Return `validation`, `test` or `train` for a file's name, by the rule of Speech Commands (Warden, 2018).

    The SHA-1 of what stands before `_nohash_`, modulo 2^27, says at which percentage the speaker lies: the lowest
    validate, the next test, the others train.

    >>> [speaker_set(name) for name in ("8b775397_nohash_0.wav", "2aa787cf_nohash_1.wav", "0a7c2a8d_nohash_0.wav")]
    ['validation', 'test', 'train']
    """
    speaker = name.split(SPEAKER_END, maxsplit=1)[0]
    number = int(hashlib.sha1(speaker.encode(), usedforsecurity=False).hexdigest(), 16) % _HASH_RANGE
    percent = 100 * number / (_HASH_RANGE - 1)
    if percent < validation_percent:
        return "validation"
    return "test" if percent < validation_percent + test_percent else "train"


def read_sounds(paths: Sequence[Path], form: SoundForm) -> Tensor:
    """Return (n, *form.shape) float32 inputs.

    Raises:
        DataError: a file is no WAV file, is damaged, or holds no or infinite samples.
    """
    inputs = torch.empty((len(paths), *form.shape))
    for start in range(0, len(paths), _CHUNK):
        waveforms = torch.stack([_read(path, form) for path in paths[start : start + _CHUNK]])
        values = waveforms if form.features is None else log_mel(waveforms, form.features)
        inputs[start : start + _CHUNK] = values.unsqueeze(1)
    return inputs


def _sets(listing: Listing, root: Path, form: SoundForm) -> list[str]:
    """Return `train`, `validation` or `test` for each file."""
    lists = {name: root / file_name for name, file_name in LISTS.items()}
    if not any(path.exists() for path in lists.values()):
        percents = {"validation_percent": form.validation_percent, "test_percent": form.test_percent}
        return [speaker_set(path.name, **percents) for path in listing.paths]
    members = {name: _lines(path) for name, path in lists.items()}
    if both := members["validation"] & members["test"]:
        raise DataError(f"{root}: {min(both)} is in {' and in '.join(LISTS.values())}; a file belongs to one split")
    names = [path.relative_to(root).as_posix() for path in listing.paths]
    return [next((name for name, lines in members.items() if path in lines), "train") for path in names]


def _lines(path: Path) -> frozenset[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); give both {' and '.join(LISTS.values())}, or none"
        ) from error
    return frozenset(line.strip() for line in text.splitlines() if line.strip())


def _read(path: Path, form: SoundForm) -> Tensor:
    """Return one sound, float32 (n_samples,)."""
    try:
        rate, values = _samples(path)
        _require_sound(rate, values)
        mono = values[: math.ceil((form.seconds + _MARGIN_SECONDS) * rate)].mean(axis=1)
        sound = _resampled(mono, rate, form.sample_rate)[: form.n_samples]
    except Exception as error:  # a damaged file raises almost anything
        raise DataError(f"{path} is not a WAV file that can be used ({error}); replace or remove it") from error
    padded = np.zeros(form.n_samples, dtype=np.float32)
    padded[: len(sound)] = sound
    return torch.from_numpy(padded)


def _samples(path: Path) -> tuple[int, npt.NDArray[np.float64]]:
    """Return the sample rate in Hz and the (samples, channels), integers scaled to [-1, 1)."""
    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # chunks of metadata
        warnings.filterwarnings("error", message="Reached EOF|Incomplete chunk")  # the file was cut off
        rate, raw = wavfile.read(path)
    values = raw.astype(np.float64)
    if raw.dtype == np.uint8:
        values = (values - 128) / 128
    elif raw.dtype.kind == "i":
        values /= 2.0 ** (8 * raw.dtype.itemsize - 1)
    return int(rate), values.reshape(len(values), -1)


def _require_sound(rate: int, values: npt.NDArray[np.float64]) -> None:
    if not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        raise DataError(f"its sample rate is {rate:,} Hz")
    if len(values) == 0:
        raise DataError("it holds no sample")
    if not np.isfinite(values).all():
        raise DataError("it holds NaN or infinite samples")


def _resampled(values: npt.NDArray[np.float64], rate: int, wanted: int) -> npt.NDArray[np.float64]:
    if rate == wanted:
        return values
    from scipy.signal import resample_poly

    ratio = Fraction(wanted, rate)
    return np.asarray(resample_poly(values, ratio.numerator, ratio.denominator))
