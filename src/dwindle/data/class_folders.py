"""This file lists files that lie in one folder a class, and draws splits that hold each class at its share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dwindle.errors import DataError, SettingError


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Files and the class of each.

    Attributes:
        class_names: of the folders, sorted.
        paths: class after class, sorted by name within each.
        labels: int64 (n,), positions in `class_names`.
    """

    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: Tensor

    def part(self, rows: Tensor) -> Listing:
        """Return the files with these numbers."""
        numbers = [int(row) for row in rows]
        return Listing(
            class_names=self.class_names, paths=tuple(self.paths[row] for row in numbers), labels=self.labels[rows]
        )


def list_classes(
    root: Path, *, suffixes: Sequence[str], class_names: Sequence[str] | None = None, max_per_class: int | None = None
) -> Listing:
    """Return the files of each class folder of `root`, folders in it included.

    Names that begin with `.` or `_` are left out (`.DS_Store`, `_background_noise_`), as are links to folders.

    Args:
        root: holds one folder a class.
        suffixes: of the files wanted, in lower case, such as `.png`; others are left out.
        class_names: the folders that are classes; all of them without it.
        max_per_class: takes this many files of each class, evenly spaced in the order of their names.

    Raises:
        DataError: `root` or a class folder is absent, unreadable or empty.
        SettingError: `max_per_class` is below 1, or `class_names` repeat a name.
    """
    if max_per_class is not None and max_per_class < 1:
        raise SettingError(f"max_per_class must be at least 1, got {max_per_class}")
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; name the one that holds a folder for each class")
    names = tuple(class_names) if class_names is not None else _folders(root)
    if len(set(names)) < len(names):
        raise SettingError(f"class_names {names} name a folder twice")
    if not names:
        raise DataError(f"{root} holds no class folder; it must hold one folder for each class")
    files = {name: _files(root / name, suffixes, max_per_class) for name in names}
    return Listing(
        class_names=names,
        paths=tuple(path for paths in files.values() for path in paths),
        labels=torch.tensor([label for label, paths in enumerate(files.values()) for _ in paths], dtype=torch.int64),
    )


def stratified(labels: Tensor, fractions: Mapping[str, float], *, seed: int = 0) -> dict[str, Tensor]:
    """Draw disjoint parts that hold every class at its share, at least one of each; `rest` holds what is left.

    Args:
        labels: (n,) class numbers.
        fractions: of each class that each part gets.
        seed: of the draw.

    Returns:
        Row numbers of each part and of `rest`, ascending.

    Raises:
        SettingError: a fraction is not positive or they leave nothing.
        DataError: a class has too few examples for one in each part.

    >>> {name: len(rows) for name, rows in stratified(torch.arange(20) % 2, {"test": 0.2}).items()}
    {'test': 4, 'rest': 16}
    """
    if any(fraction <= 0 for fraction in fractions.values()) or sum(fractions.values()) >= 1:
        raise SettingError(
            f"fractions {dict(fractions)} must be positive and leave something; their sum must be below 1"
        )
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {name: [] for name in (*fractions, "rest")}
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        sizes = [max(1, round(fraction * len(members))) for fraction in fractions.values()]
        sizes.append(len(members) - sum(sizes))
        if sizes[-1] < 1:
            raise DataError(
                f"class {int(label)} has {len(members)} examples, too few to split into {len(parts)} parts; "
                "add examples or pass folders that are split already"
            )
        drawn = members[torch.randperm(len(members), generator=generator)].split(sizes)
        for rows, chosen in zip(parts.values(), drawn, strict=True):
            rows.append(chosen)
    return {name: torch.cat(rows).sort().values for name, rows in parts.items()}


def _folders(root: Path) -> tuple[str, ...]:
    try:
        entries = sorted(root.iterdir())
    except OSError as error:
        raise DataError(f"{root} cannot be read ({error.strerror}); make it readable") from error
    return tuple(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith((".", "_")))


def _files(folder: Path, suffixes: Sequence[str], max_per_class: int | None) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"class folder {folder} does not exist; classes are the folders of {folder.parent}")

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}); make it readable") from error

    paths = sorted(
        Path(place, name)
        for place, _, names in os.walk(folder, onerror=refuse)
        for name in names
        if not name.startswith((".", "_")) and Path(name).suffix.lower() in suffixes
    )
    if not paths:
        raise DataError(f"class folder {folder} holds no file ending in {', '.join(suffixes)}; fill or remove it")
    if max_per_class is None or len(paths) <= max_per_class:
        return paths
    return [paths[place * len(paths) // max_per_class] for place in range(max_per_class)]
