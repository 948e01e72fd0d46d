"""This file writes which file fits on which device, in words and as a Markdown table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from dwindle.bench.devices import Device
from dwindle.bench.file_needs import Needs
from dwindle.bench.fits import Fit, Room, Verdict
from dwindle.report.words import DASH, human_bytes, significant

UNCHECKED: Final = "*"
"""Stands after a device whose figures could not be confirmed."""
UNCHECKED_NOTE: Final = f"{UNCHECKED} figures that could not be confirmed."
_OF_SIZES: Final = "RAM of a plain size: so many bytes held in RAM; what decoding and activations add is not counted."
_OF_FILES: Final = (
    "RAM of a file: an estimate, no engine ran: its decoded weights and the arena that holds all tensors of one "
    "example, laid as an engine for microcontrollers does; code and tables of the engine add to it."
)
_IN_PLACE: Final = "With weights in flash: decoded into arrays there, which an engine reads where they lie."
_CARD: Final = "A card is of the owner's choice, so nothing is said about it."
_UNRESERVED: Final = "Nothing is reserved for firmware, an operating system or an engine."
_BINARY: Final = ("bytes", "KiB", "MiB", "GiB")


def memory_words(n_bytes: int | None) -> str:
    """Return the size of a memory: storage in powers of 1,000, chips in powers of 1,024, as they are sold.

    >>> memory_words(262_144), memory_words(270_336), memory_words(128_000_000_000), memory_words(None)
    ('256 KiB', '264 KiB', '128 GB', 'a card')
    """
    if n_bytes is None:
        return "a card"
    if n_bytes % 1_000**3 == 0:
        return f"{n_bytes // 1_000**3:,} GB"
    power = next((p for p in (3, 2, 1) if n_bytes >= 1_024**p), 0)
    value = n_bytes / 1_024**power
    return f"{int(value) if value.is_integer() else significant(value)} {_BINARY[power]}"


def room_words(room: Room) -> str:
    """Return a verdict with its share: of the memory, or how many times too large it is.

    >>> from dwindle.bench.fits import Room
    >>> room_words(Room(needed_bytes=64, memory_bytes=256)), room_words(Room(needed_bytes=512, memory_bytes=256))
    ('fits, 25.0 %', 'does not fit, 2.00x')
    """
    is_known = room.verdict is not Verdict.UNKNOWN
    return f"{room.verdict.value}, {share_words(room)}" if is_known else room.verdict.value


def share_words(room: Room) -> str:
    """Return the share of a memory in per cent, or how many times too large something is.

    >>> from dwindle.bench.fits import Room
    >>> [share_words(Room(needed_bytes=n, memory_bytes=256)) for n in (64, 512, None)]
    ['25.0 %', '2.00x', '?']
    """
    if room.share is None:
        return "?"
    return f"{significant(room.share)}x" if room.share > 1 else _percent(room.share)


def ram_words(fit: Fit) -> str:
    """Return the verdict on RAM; where it fits only with the weights left in flash, that is said."""
    if fit.ram.verdict is not Verdict.FITS and fit.fits_in_place:
        flash, ram = share_words(fit.weights_in_flash), share_words(fit.activations_in_ram)
        return f"with weights in flash ({flash}): fits, {ram}"
    return room_words(fit.ram)


def needs_words(name: str, needs: Needs) -> str:
    """Return what a file asks for, in one line."""
    parts = [f"{human_bytes(needs.file_bytes)} in flash"]
    if needs.weights is not None:
        parts.append(f"about {human_bytes(needs.weights.value)} of weights when decoded")
    if needs.activations is not None:
        parts.append(f"about {human_bytes(needs.activations.value)} of activations for one example")
    if needs.arena is not None:
        parts.append(f"laid into an arena of {human_bytes(needs.arena.value)}")
    if needs.planned is not None:
        least = "at least " if needs.planned.is_least else ""
        arena = f"{least}{human_bytes(needs.planned.n_bytes)}"
        parts.append(f"an arena of {arena}, told by {needs.planned.runtime} (kernels: {needs.planned.kernels})")
    unknown = f" ({needs.unknown})" if needs.unknown else ""
    return f"{name}: {', '.join(parts)}{unknown}"


def footnotes(fits: Sequence[Fit]) -> Iterator[str]:
    """Yield what a reader of the table must know."""
    is_file = [fit.needs.artifact is not None for fit in fits]
    in_place = any(fit.ram.verdict is not Verdict.FITS and fit.fits_in_place for fit in fits)
    listed = tuple(dict.fromkeys(fit.device for fit in fits))
    reserve = max((fit.reserve for fit in fits), default=0.0)
    notes = {
        _OF_SIZES: not all(is_file),
        _OF_FILES: any(is_file),
        _IN_PLACE: in_place,
        _CARD: any(device.flash_bytes is None for device in listed),
        _UNRESERVED: not reserve,
        f"{_percent(reserve)} of each memory is reserved; shares are of the whole memory.": reserve > 0,
        UNCHECKED_NOTE: any(not device.checked for device in listed),
    }
    yield from (note for note, is_needed in notes.items() if is_needed)
    for device in listed:
        if device.is_published_wrong:
            ram = memory_words(device.ram_bytes)
            yield f"{device.name}: Tian et al. (2022) print {device.published}; it has {ram}, as its source says."
    yield from (f"{device.name}: {device.note}." for device in listed if device.note)


def fits_markdown(fits: Sequence[Fit]) -> str:
    """Return a Markdown table, a row for each device and two columns for each file, with its footnotes.

    The column `published` stands where a paper prints the memory of one of the devices.
    """
    rows = tuple(table_rows(fits))
    if not rows:
        return ""
    header, *body = rows
    lines = [_line(header), _line(["---"] * len(header)), *map(_line, body)]
    return "\n".join([*lines, "", *(f"- {_escaped(note)}" for note in footnotes(fits)), ""])


def table_rows(fits: Sequence[Fit]) -> Iterator[tuple[str, ...]]:
    """Yield the header, then a row for each device; every row has as many cells."""
    names = tuple(dict.fromkeys(fit.name for fit in fits))
    has_published = any(fit.device.published for fit in fits)
    if not fits:
        return
    columns = tuple(f"{name}, {memory}" for name in names for memory in ("flash", "RAM"))
    yield ("device", "flash", "RAM", *(("published",) if has_published else ()), *columns)
    for device in dict.fromkeys(fit.device for fit in fits):
        of_device = {fit.name: fit for fit in fits if fit.device == device}
        published = (device.published or "",) if has_published else ()
        cells = [cell for name in names for cell in _cells(of_device.get(name))]
        yield (
            device_words(device),
            memory_words(device.flash_bytes),
            memory_words(device.ram_bytes),
            *published,
            *cells,
        )


def device_words(device: Device) -> str:
    """Return the name of a device, marked where its figures are not confirmed."""
    return device.name if device.checked else f"{device.name}{UNCHECKED}"


def _cells(fit: Fit | None) -> tuple[str, str]:
    return (DASH, DASH) if fit is None else (room_words(fit.flash), ram_words(fit))


def _percent(share: float) -> str:
    return f"{significant(100 * share)} %" if share >= 0.001 or share == 0 else "< 0.1 %"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*|<>\[\]])", r"\\\1", text)
