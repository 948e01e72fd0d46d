"""This file loads the histology tiles of Kather et al. (2018) from their class folders; Predic et al. (2022) use them.

NCT-CRC-HE-100K (100,000 tiles of 86 patients, 224 x 224 at 0.5 micrometres a pixel, colour-normalized) trains and, by a
tenth, validates; CRC-VAL-HE-7K (7,180 tiles of 50 other patients) tests. Tile names do not tell patients, so validation
tiles share patients with training tiles and score higher than the test set. CC BY 4.0,
https://doi.org/10.5281/zenodo.1214456; 12 GB, so the two archives are not downloaded here: unpack them side by side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dwindle.data.class_folders import list_classes
from dwindle.data.images import SUFFIXES, ImageForm, hold_out_images, splits_of
from dwindle.data.locate import cache_folder, find_folder
from dwindle.data.splits import Splits
from dwindle.errors import DataError

CLASS_NAMES: Final = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
"""Adipose, background, debris, lymphocytes, mucus, smooth muscle, normal mucosa, cancer-associated stroma, tumour."""
FOLDER_NAME: Final = "nct-crc-he"
TRAIN_FOLDER: Final = "NCT-CRC-HE-100K"
TEST_FOLDER: Final = "CRC-VAL-HE-7K"


def load_nct_crc_he(
    root: Path | None = None, *, form: ImageForm | None = None, max_per_class: int | None = None
) -> Splits:
    """Return the tiles in three splits, float32 (3, 64, 64) unless `form` says otherwise.

    Args:
        root: holds `NCT-CRC-HE-100K` and `CRC-VAL-HE-7K`; without it `locate` looks for the folder `nct-crc-he`.
        form: what tiles become. All tiles at 224 x 224 take 60 GiB as float32, at 64 x 64 4.9 GiB.
        max_per_class: takes this many tiles of each class, for training and validation and for testing.

    Raises:
        DataError: the folders are absent, a tile is broken, or there are too many for the memory limit.
    """
    folder = find_folder(FOLDER_NAME, _complaint, root)
    if folder is None:
        raise DataError(
            f"{FOLDER_NAME} is not on this machine and is not downloaded; unpack {TRAIN_FOLDER}.zip and "
            f"{TEST_FOLDER}.zip of https://doi.org/10.5281/zenodo.1214456 into {cache_folder(FOLDER_NAME)} or pass root"
        )
    whole, test = (
        list_classes(folder / name, suffixes=SUFFIXES, class_names=CLASS_NAMES, max_per_class=max_per_class)
        for name in (TRAIN_FOLDER, TEST_FOLDER)
    )
    train, validation = hold_out_images(whole)
    return splits_of(FOLDER_NAME, (train, validation, test), form=form or ImageForm(size=64))


def _complaint(folder: Path) -> str:
    absent = [name for name in (TRAIN_FOLDER, TEST_FOLDER) if not (folder / name).is_dir()]
    return f"lacks the folder {' and '.join(absent)}" if absent else ""
