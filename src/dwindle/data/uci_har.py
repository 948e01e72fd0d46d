"""This file loads UCI-HAR (Anguita et al., 2012): six activities from a phone's motion sensors at the waist.

10,299 windows of 128 readings (2.56 s at 50 Hz) of 9 signals: body acceleration x y z in g, angular velocity x y z in
rad/s, total acceleration x y z in g. 30 people took part; the official test set holds nine of them. Neighbouring
windows overlap by half, so the validation set is drawn by person: one person in two sets would inflate its score. No
commercial use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from dwindle.data.locate import cache_folder, find_folder
from dwindle.data.splits import Splits
from dwindle.data.uci_har_files import complaint, download_windows, read_windows
from dwindle.errors import SettingError

CLASS_NAMES: Final = ("walking", "walking_upstairs", "walking_downstairs", "sitting", "standing", "laying")
FOLDER_NAME: Final = "uci-har"
VALIDATION_SUBJECTS: Final = (7, 16, 23, 29)
"""Every fifth person of the 21 in the official training set: 1,390 of 7,352 windows."""
MEAN: Final = (-0.0006, -0.0003, -0.0003, 0.0005, -0.0008, 0.0001, 0.8047, 0.0288, 0.0865)
STD: Final = (0.1948, 0.1224, 0.1069, 0.4068, 0.3819, 0.2557, 0.4141, 0.3910, 0.3578)
"""Of each signal over the official training set. The README's "normalized to [-1, 1]" is about the 561 features; the
signals reach 6 g and 6 rad/s."""


def load_uci_har(
    root: Path | None = None,
    *,
    standardize: bool = True,
    published_layout: bool = False,
    validation_subjects: Sequence[int] = VALIDATION_SUBJECTS,
) -> Splits:
    """Return UCI-HAR: 5,962 training, 1,390 validation and 2,947 test windows, float32 (9, 128), one row a signal.

    Args:
        root: folder that holds `uci-har.npz`, the official `UCI HAR Dataset` folder, or the official zip; without it
            `locate` looks for them. Text takes some seconds to parse; `uci_har_files.write_npz` keeps the outcome.
        standardize: subtract each signal's mean and divide by its standard deviation; otherwise g and rad/s.
        published_layout: scramble the signals as the released experiments of Tian et al. (2022) do, which take a window
            of 128 readings of 9 signals for one of 9 x 128 without transposing it.
        validation_subjects: people of the official training set whose windows validate.

    Raises:
        DataError: the files are absent, damaged, or not the published windows.
        SettingError: a validation subject is not in the training set, or nobody would be left there.
    """
    folder = find_folder(FOLDER_NAME, complaint, root)
    if folder is None:
        folder = download_windows(cache_folder(FOLDER_NAME))
    windows = read_windows(folder)
    is_held_out = _held_out(windows["train"].subject, validation_subjects)
    whole = {
        part: TensorDataset(
            _prepare(values.x, standardize=standardize, published_layout=published_layout),
            torch.from_numpy(values.y.astype(np.int64)),
        )
        for part, values in windows.items()
    }
    return Splits(
        name=FOLDER_NAME,
        train=TensorDataset(*whole["train"][~is_held_out]),
        validation=TensorDataset(*whole["train"][is_held_out]),
        test=whole["test"],
        class_names=CLASS_NAMES,
    )


def _held_out(subjects: npt.NDArray[np.uint8], chosen: Sequence[int]) -> Tensor:
    present = sorted(set(subjects.tolist()))
    unknown = sorted(set(chosen) - set(present))
    if unknown or not chosen or len(set(chosen)) == len(present):
        raise SettingError(
            f"validation_subjects {tuple(chosen)} must be some but not all people of the training set: {present}"
        )
    return torch.from_numpy(np.isin(subjects, list(chosen)))


def _prepare(signals: npt.NDArray[np.float32], *, standardize: bool, published_layout: bool) -> Tensor:
    inputs = torch.from_numpy(signals)
    if standardize:
        mean, std = (torch.tensor(numbers).reshape(1, -1, 1) for numbers in (MEAN, STD))
        inputs = (inputs - mean) / std
    return inputs.transpose(1, 2).reshape(inputs.shape) if published_layout else inputs
