"""This file sets the files of a study against the memories of devices, as Table 1 of Tian et al. (2022) does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dwindle.bench.devices import Device, devices
from dwindle.bench.fits import Fit, fit_rows
from dwindle.report.fits_table import UNCHECKED_NOTE, device_words, memory_words, share_words
from dwindle.report.words import DASH
from dwindle.studies.results import Results
from dwindle.studies.shown import OnDevices
from dwindle.studies.study import Study

ABOUT: Final = (
    "What share of the flash, and of the RAM, the bytes of a file take; 2.3x is 2.3 times too large. Nothing is "
    "reserved, and what decoded weights and activations add in RAM is not counted: "
    "`dwindle fits` estimates it for a file."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicesTable:
    """Files on devices, as text: a row for each device, as many cells as the header has."""

    title: str
    about: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def devices_table(study: Study, results: Results) -> DevicesTable | None:
    """Return the table that `study.on_devices` asks for; None where it asks for none, or no file was made."""
    asked = study.on_devices
    sizes = {} if asked is None else dict(_sizes(study, results, asked))
    if asked is None or not sizes:
        return None
    fits = fit_rows({name: round(n_bytes) for name, n_bytes in sizes.items()})
    rows = tuple(_row(device, [fit for fit in fits if fit.device == device]) for device in devices())
    notes = (UNCHECKED_NOTE,) if any(not device.checked for device in devices()) else ()
    header = ("device", "flash", "RAM", "RAM as published", *sizes)
    return DevicesTable(
        title=f"Which file fits where, {asked.data}", about=ABOUT, header=header, rows=rows, notes=notes
    )


def _sizes(study: Study, results: Results, asked: OnDevices) -> Iterator[tuple[str, float]]:
    for network in study.networks:
        for stage in asked.stages:
            found = results.figure("size_bytes", stage=stage, network=network, data=asked.data)
            if found is not None:
                yield f"{network} {stage.replace('_', ' ')}", found.value


def _row(device: Device, fits: list[Fit]) -> tuple[str, ...]:
    cells = (f"{share_words(fit.flash)} / {share_words(fit.ram)}" for fit in fits)
    flash, ram = memory_words(device.flash_bytes), memory_words(device.ram_bytes)
    return (device_words(device), flash, ram, device.published or DASH, *cells)
