"""This file holds `dwindle fits`: on which devices files have room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dwindle.cli.console import print_json, stdout

if TYPE_CHECKING:
    from dwindle.bench.fits import Fit, Room
    from dwindle.bench.measurement import Estimate

Files = Annotated[
    list[Path],
    typer.Argument(help="Any files; of .dwn and .onnx more is known than their bytes.", metavar="FILE"),
]
Catalogue = Annotated[
    Path | None, typer.Option("--devices", help="Devices of your own: a TOML file, in place of the built-in catalogue.")
]
Reserve = Annotated[float, typer.Option(help="Share of each memory that is kept for other things, in [0, 1).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

WIDEST: Final = 200


def fits(files: Files, *, catalogue: Catalogue = None, reserve: Reserve = 0.0, as_json: AsJson = False) -> None:
    """Print on which devices files fit, from microcontroller to phone: in flash, and (estimated) in RAM."""
    from dwindle.bench import fits as bench
    from dwindle.bench.devices import devices

    known = devices(catalogue)
    names = _names(files)
    found = [
        replace(fit, name=name)
        for path, name in zip(files, names, strict=True)
        for fit in bench.fits(path, known, reserve=reserve)
    ]
    if as_json:
        print_json(_plain(found))
    else:
        _print(found)


def _names(files: Sequence[Path]) -> list[str]:
    """Return the names of the files; paths where names repeat, numbered where these do."""
    paths = [str(path) for path in files]
    by_name, by_path = Counter(path.name for path in files), Counter(paths)
    named = [path.name if by_name[path.name] == 1 else str(path) for path in files]
    return [
        name if by_path[path] == 1 else f"{name} ({number})"
        for number, (name, path) in enumerate(zip(named, paths, strict=True), start=1)
    ]


def _print(found: Sequence[Fit]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from dwindle.report.fits_table import footnotes, needs_words, table_rows

    header, *rows = table_rows(found)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in header:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    for name, needs in {fit.name: fit.needs for fit in found}.items():
        stdout.print(needs_words(name, needs), markup=False)
    Console(width=WIDEST, highlight=False, markup=False).print(table, crop=False)
    for note in footnotes(found):
        stdout.print(note, markup=False)


def _plain(found: Sequence[Fit]) -> dict[str, Any]:
    files = {fit.name: fit.needs for fit in found}
    return {
        "reserve": found[0].reserve,
        "files": [
            {
                "file": name,
                "sha256": needs.artifact.sha256 if needs.artifact else None,
                "file_bytes": needs.file_bytes,
                "weights": _plain_estimate(needs.weights),
                "activations": _plain_estimate(needs.activations),
                "arena": _plain_estimate(needs.arena),
                "planned": asdict(needs.planned) if needs.planned else None,
                "unknown": needs.unknown,
            }
            for name, needs in files.items()
        ],
        "devices": [
            {**asdict(device), "fits": [_plain_fit(fit) for fit in found if fit.device == device]}
            for device in dict.fromkeys(fit.device for fit in found)
        ],
    }


def _plain_fit(fit: Fit) -> dict[str, Any]:
    return {
        "file": fit.name,
        "flash": _plain_room(fit.flash),
        "ram": _plain_room(fit.ram),
        "weights_in_flash": _plain_room(fit.weights_in_flash),
        "activations_in_ram": _plain_room(fit.activations_in_ram),
        "fits_in_place": fit.fits_in_place,
    }


def _plain_room(room: Room) -> dict[str, Any]:
    return {
        "verdict": room.verdict.value,
        "needed_bytes": room.needed_bytes,
        "is_least": room.is_least,
        "memory_bytes": room.memory_bytes,
        "share": room.share,
    }


def _plain_estimate(found: Estimate | None) -> dict[str, Any] | None:
    return None if found is None else {"estimate": found.value, "unit": found.metric.unit, "method": found.method}
