"""This file reads the windows of UCI-HAR from the official text files or zip, or from one npz file that it writes.

The npz holds, for `train` and `test`: `x_*` float32 (n, 9, 128), `y_*` uint8 (labels 1..6 as 0..5), `subject_*` uint8
(1..30) and `chain_*` uint16, the number of the run of overlapping windows; rows are in the order of person, label,
chain and time. No checksum of the official zip is published, so what was read is checked: shapes, labels, people, and
how many windows each activity has.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from dwindle.data.archive import member_names, members
from dwindle.data.download import download, keep
from dwindle.errors import DataError

SIGNALS: Final = tuple(f"{kind}_{axis}" for kind in ("body_acc", "body_gyro", "total_acc") for axis in "xyz")
N_READINGS: Final = 128
N_CLASSES: Final = 6
N_SUBJECTS: Final = 30
CLASS_COUNTS: Mapping[str, tuple[int, ...]] = {
    "train": (1226, 1073, 986, 1286, 1374, 1407),
    "test": (496, 471, 420, 491, 532, 537),
}
"""Of the published windows."""
NPZ_NAME: Final = "uci-har.npz"
TEXT_FOLDER: Final = "UCI HAR Dataset"
INNER_ZIP: Final = "UCI HAR Dataset.zip"
URL: Final = "https://archive.ics.uci.edu/static/public/240/human+activity+recognition+using+smartphones.zip"
ZIP_NAMES: Final = (URL.rsplit("/", maxsplit=1)[-1], INNER_ZIP)
MAX_BYTES: Final = 1 << 28
"""Of one text file, or of the zip in the zip."""
_PARTS: Final = ("train", "test")

Read = Callable[[str], bytes]
"""Returns a text file of the official layout, such as `train/y_train.txt`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """One official set.

    Attributes:
        x: float32 (n, 9, 128); body acceleration x y z in g, angular velocity x y z in rad/s, total acceleration in g.
        y: uint8 (n,), activity 0..5.
        subject: uint8 (n,), person 1..30.
        chain: uint16 (n,), number of the run of windows that overlap by half.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.uint8]
    subject: npt.NDArray[np.uint8]
    chain: npt.NDArray[np.uint16]


def complaint(folder: Path) -> str:
    """Return what keeps `folder` from holding UCI-HAR, or an empty text."""
    if not folder.is_dir():
        return "is a file, not a folder" if folder.exists() else "does not exist"
    if (folder / NPZ_NAME).is_file() or _zip_in(folder) is not None or _text_in(folder) is not None:
        return ""
    return f"holds neither {NPZ_NAME} nor the folder {TEXT_FOLDER} nor {' or '.join(ZIP_NAMES)}"


def read_windows(folder: Path) -> dict[str, Windows]:
    """Return the windows of `train` and `test` in `folder`: from the npz, else the text files, else the zip.

    Raises:
        DataError: a file is absent or damaged, or these are not the published windows.
    """
    npz, text, packed = folder / NPZ_NAME, _text_in(folder), _zip_in(folder)
    if npz.is_file():
        windows, what = _read_npz(npz), npz
    elif text is not None:
        windows, what = _read_texts(lambda name: _file(text / name)), text
    elif packed is not None:
        windows, what = _read_texts(_zip_reader(packed)), packed
    else:
        raise DataError(f"{folder} {complaint(folder)}")
    _require_published(windows, str(what))
    return windows


def write_npz(windows: Mapping[str, Windows], path: Path) -> None:
    """Write the windows of `train` and `test` as the npz file that `read_windows` reads first.

    Raises:
        DataError: the disk refuses.
    """
    arrays = {
        f"{name}_{part}": getattr(windows[part], name) for part in _PARTS for name in ("x", "y", "subject", "chain")
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    keep(path, buffer.getbuffer())


def download_windows(folder: Path) -> Path:
    """Download the official zip, check its windows, keep them in `folder` as npz, and return `folder`.

    Raises:
        DataError: the transfer fails, or these are not the published windows.
    """
    packed = download(URL, folder / ZIP_NAMES[0], checksum=None)
    try:
        windows = read_windows(folder)
    except DataError:
        packed.unlink(missing_ok=True)  # or the next call would trust it for being there
        raise
    write_npz(windows, folder / NPZ_NAME)
    packed.unlink(missing_ok=True)
    return folder


def _zip_in(folder: Path) -> Path | None:
    return next((folder / name for name in ZIP_NAMES if (folder / name).is_file()), None)


def _text_in(folder: Path) -> Path | None:
    return next(
        (place for place in (folder / TEXT_FOLDER, folder) if (place / "train" / "Inertial Signals").is_dir()), None
    )


def _names() -> list[str]:
    signals = [f"{part}/Inertial Signals/{signal}_{part}.txt" for part in _PARTS for signal in SIGNALS]
    return signals + [f"{part}/{name}_{part}.txt" for part in _PARTS for name in ("y", "subject")]


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); UCI-HAR needs all its signals") from error


def _zip_reader(packed: Path) -> Read:
    """Return a reader of the official zip, whose text files may lie in a zip inside it."""
    archive: Path | bytes = packed
    if INNER_ZIP in member_names(packed):
        archive = dict(members(packed, [INNER_ZIP], max_bytes=MAX_BYTES))[INNER_ZIP]
    names = [f"{TEXT_FOLDER}/{name}" for name in _names()]
    contents = dict(members(archive, names, max_bytes=MAX_BYTES))
    return lambda name: contents[f"{TEXT_FOLDER}/{name}"]


def _read_texts(read: Read) -> dict[str, Windows]:
    parts = [_read_part(read, part) for part in _PARTS]
    x, y, subject = (np.concatenate([getattr(windows, name) for windows in parts]) for name in ("x", "y", "subject"))
    is_test = np.repeat([False, True], [len(windows.y) for windows in parts])
    chain, time = _chains(x, list(zip(is_test.tolist(), subject.tolist(), y.tolist(), strict=True)))
    order = np.lexsort((time, chain, y, subject))
    changes = np.diff(chain[order], prepend=chain[order][:1]) != 0
    number = np.cumsum(changes).astype(np.uint16)
    return {
        part: Windows(x=x[rows], y=y[rows], subject=subject[rows], chain=number[is_test[order] == is_wanted])
        for part, is_wanted in zip(_PARTS, (False, True), strict=True)
        for rows in (order[is_test[order] == is_wanted],)
    }


def _read_part(read: Read, part: str) -> Windows:
    signals = [_numbers(read, f"{part}/Inertial Signals/{signal}_{part}.txt", N_READINGS) for signal in SIGNALS]
    y, subject = (_numbers(read, f"{part}/{name}_{part}.txt", 1)[:, 0] for name in ("y", "subject"))
    lengths = {len(rows) for rows in (*signals, y, subject)}
    if len(lengths) > 1:
        raise DataError(f"the {part} files of UCI-HAR have {sorted(lengths)} rows; they must all have the same number")
    for values, low, high, name in ((y, 1, N_CLASSES, "y"), (subject, 1, N_SUBJECTS, "subject")):
        if not np.isin(values, np.arange(low, high + 1)).all():
            raise DataError(f"{part}/{name}_{part}.txt holds other values than {low} to {high}; load it again")
    return Windows(
        x=np.stack(signals, axis=1).astype(np.float32),
        y=(y - 1).astype(np.uint8),
        subject=subject.astype(np.uint8),
        chain=np.zeros(len(y), dtype=np.uint16),
    )


def _numbers(read: Read, name: str, n_columns: int) -> npt.NDArray[np.float64]:
    """Return the (rows, columns) numbers of a text file."""
    content = read(name)
    try:
        rows = np.loadtxt(io.BytesIO(content), ndmin=2) if content.strip() else np.empty((0, n_columns))
    except ValueError as error:
        raise DataError(f"{name} of UCI-HAR is not a table of numbers ({error}); load it again") from error
    if rows.shape[1] != n_columns:
        raise DataError(f"{name} of UCI-HAR has {rows.shape[1]} columns, not {n_columns}; load it again")
    return rows


def _chains(
    x: npt.NDArray[np.float32], groups: Sequence[Hashable]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return each window's chain and its place in it, whatever the order of rows.

    A window follows another of its group if its first half is the other's second half.
    """
    half, n = N_READINGS // 2, len(groups)
    first_halves = {(groups[row], x[row, :, :half].tobytes()): row for row in reversed(range(n))}
    followers = [first_halves.get((groups[row], x[row, :, half:].tobytes())) for row in range(n)]
    chain, time = np.full(n, -1), np.zeros(n, dtype=np.int64)
    followed = set(followers)
    for start in sorted(range(n), key=followed.__contains__):  # windows that follow none begin a chain
        row: int | None = start
        place = 0
        while row is not None and chain[row] < 0:
            chain[row], time[row] = start, place
            row, place = followers[row], place + 1
    return chain, time


def _read_npz(path: Path) -> dict[str, Windows]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            _require_small(arrays.zip)
            return {
                part: Windows(
                    x=arrays[f"x_{part}"],
                    y=arrays[f"y_{part}"],
                    subject=arrays[f"subject_{part}"],
                    chain=arrays[f"chain_{part}"],
                )
                for part in _PARTS
            }
    except Exception as error:  # a damaged zip or a pickled array raises almost anything
        raise DataError(f"{path} is not the npz file of UCI-HAR ({error}); delete it and load again") from error


def _require_small(packed: zipfile.ZipFile) -> None:
    if (n_bytes := sum(entry.file_size for entry in packed.infolist())) > MAX_BYTES:
        raise DataError(f"it unpacks to {n_bytes:,} bytes")


def _require_published(parts: Mapping[str, Windows], what: str) -> None:
    for part, windows in parts.items():
        n = sum(CLASS_COUNTS[part])
        if windows.x.dtype != np.float32 or windows.x.shape != (n, len(SIGNALS), N_READINGS):
            raise DataError(f"{what}: x_{part} is {windows.x.dtype} {windows.x.shape}, not float32 {(n, 9, 128)}")
        for name in ("y", "subject", "chain"):
            values: npt.NDArray[np.generic] = getattr(windows, name)
            if values.shape != (n,) or values.dtype.kind != "u":
                raise DataError(f"{what}: {name}_{part} is {values.dtype} {values.shape}, not ({n},) unsigned integers")
        counts = tuple(int(count) for count in np.bincount(windows.y, minlength=N_CLASSES))
        if counts != CLASS_COUNTS[part]:
            raise DataError(f"{what}: {counts} {part} windows an activity; published were {CLASS_COUNTS[part]}")
    both = set(parts["train"].subject.tolist()) & set(parts["test"].subject.tolist())
    if both:
        raise DataError(f"{what}: people {sorted(both)} are in the training set and in the test set; load it again")
