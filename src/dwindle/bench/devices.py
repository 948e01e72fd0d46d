"""This file reads the catalogue of devices: how much memory each has, and where that figure comes from."""

from __future__ import annotations

import importlib.resources
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

from dwindle.errors import SettingError
from dwindle.settings import TAG, from_plain, nearest, toml_table

Kind = Literal["microcontroller", "board", "watch", "phone"]
CATALOGUE: Final = "devices.toml"
_TABLE: Final = "device"
_LARGEST: Final = 1 << 50
_LONGEST: Final = 300
_PUBLISHED: Final = re.compile(r"(\d{1,6}(?:\.\d{1,3})?) (KB|MB|GB)")
_POWERS: Final[Mapping[str, int]] = {"KB": 1, "MB": 2, "GB": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Something that a network is deployed on.

    Attributes:
        kind: microcontroller, board (a computer with an operating system), watch or phone.
        core: its processor, in words.
        ram_bytes: on-chip RAM of a microcontroller, all RAM of the others.
        flash_bytes: what holds program and model when the power is off; None where it is a card of the owner's choice.
        source: title of the datasheet or product page that the figures come from.
        url: its address.
        checked: both figures were confirmed; a table marks those that were not.
        published: the memory capacity that a paper prints for it, such as `32 KB`; right or wrong, it is shown beside.
        note: what the figures leave out.
    """

    name: str
    kind: Kind
    core: str
    ram_bytes: int
    flash_bytes: int | None = None
    source: str
    url: str
    checked: bool
    published: str | None = None
    note: str = ""

    def __post_init__(self) -> None:
        for label, text in (("name", self.name), ("core", self.core), ("source", self.source)):
            _require_text(label, text)
        if self.note:
            _require_text("note", self.note)
        for label, n_bytes in (("ram_bytes", self.ram_bytes), ("flash_bytes", self.flash_bytes)):
            if n_bytes is not None and not 1 <= n_bytes <= _LARGEST:
                raise SettingError(f"{label} must lie between 1 and 2^50, got {n_bytes}; give bytes")
        if not _is_address(self.url):
            raise SettingError(f"url must be the https:// address of the source, got {self.url!r}")
        if self.published is not None and not _PUBLISHED.fullmatch(self.published):
            raise SettingError(f"published must be a quantity such as '32 KB' or '1.5 GB', got {self.published!r}")

    @property
    def published_bytes(self) -> int | None:
        """The published capacity in bytes, KB, MB and GB being powers of 1,024 as on memory chips; None without one."""
        if self.published is None:
            return None
        number, unit = self.published.split()
        return round(float(number) * 1_024 ** _POWERS[unit])

    @property
    def is_published_wrong(self) -> bool:
        """Whether a paper prints another capacity than the device's RAM."""
        return self.published_bytes not in {None, self.ram_bytes}


def devices(path: Path | None = None) -> tuple[Device, ...]:
    """Return the devices of a catalogue: of the one in the package, or of your own in the same form.

    Args:
        path: a TOML file of `[[device]]` tables, whose keys are the attributes of `Device`.

    Raises:
        SettingError: the file cannot be read, holds no device, one twice, or a figure that cannot be.
    """
    if path is None:
        text = (importlib.resources.files("dwindle.bench") / CATALOGUE).read_text(encoding="utf-8")
        return parse_devices(text, where=CATALOGUE)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} cannot be read ({error}); name a TOML file of [[device]] tables") from error
    return parse_devices(text, where=str(path))


def parse_devices(text: str, *, where: str) -> tuple[Device, ...]:
    """Return the devices in the text of a catalogue; `where` names it in messages.

    Raises:
        SettingError: as `devices`.
    """
    table = toml_table(text, where=where)
    for key in table:
        if key != _TABLE:
            raise SettingError(f"{where}: unknown key {key!r}; {nearest(key, (_TABLE,))}")
    entries: Any = table.get(_TABLE)
    if not isinstance(entries, list) or not entries:
        raise SettingError(f"{where} holds no device; write [[device]] and its keys below")
    found = tuple(
        _device(entry, f"{where}, device {number}") for number, entry in enumerate(cast("list[Any]", entries), start=1)
    )
    names = Counter(device.name.casefold() for device in found)
    if twice := [device.name for device in found if names[device.name.casefold()] > 1]:
        raise SettingError(f"{where} holds {twice[0]!r} twice; names must differ")
    return found


def _device(entry: Any, where: str) -> Device:
    if not isinstance(entry, Mapping):
        raise SettingError(f"{where}: expected a table, got {entry!r}")
    table = cast("Mapping[str, Any]", entry)
    name = table.get("name")
    place = f"{where} ({name})" if isinstance(name, str) else where
    if TAG in table:  # a device is of one class only, so the tag that `from_plain` would pass over is a mistake
        raise SettingError(f"{place}: unknown key {TAG!r}; say what it is with kind")
    return from_plain(Device, table, where=place)


def _require_text(label: str, text: str) -> None:
    if not text.strip() or len(text) > _LONGEST or not text.isprintable():
        raise SettingError(f"{label} must be one line of 1 to {_LONGEST} characters, got {text[:40]!r}")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" and "." in (parts.hostname or "") and url.isprintable() and " " not in url
