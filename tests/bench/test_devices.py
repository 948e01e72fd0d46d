"""This file tests the catalogue of devices: the one in the package, and what a catalogue of the user's may not be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dwindle.bench.devices import Device, devices, parse_devices
from dwindle.errors import SettingError

PUBLISHED = {
    "Arduino MKR WiFi 1010": "32 KB",
    "Arduino Portenta H7": "32 KB",
    "Raspberry Pi Zero": "8 MB",
    "Apple Watch Series 8": "1 GB",
    "Samsung Galaxy Watch4": "1.5 GB",
    "iPhone 13 Pro Max": "6 GB",
    "Samsung Galaxy S22 Ultra": "8 GB",
}
"""Table 1 of Tian et al. (2022), as it is printed."""
ENTRY = """
[[device]]
name = "mine"
kind = "board"
core = "a core"
ram_bytes = 1_000
source = "its datasheet"
url = "https://example.org/mine"
checked = true
"""


def test_the_catalogue_is_sane() -> None:
    found = devices()
    assert 15 <= len(found) <= 25
    assert len({device.name for device in found}) == len(found)
    for device in found:
        assert 1_000 <= device.ram_bytes <= 64 * 2**30, device.name
        assert device.flash_bytes is None or device.flash_bytes >= device.ram_bytes, device.name
        assert urlsplit(device.url).scheme == "https", device.name
    assert {device.kind for device in found} == {"microcontroller", "board", "watch", "phone"}


def test_only_boards_take_a_card() -> None:
    assert all(device.flash_bytes is not None or device.kind == "board" for device in devices())


def test_every_figure_of_the_published_table_stands_beside_the_right_one() -> None:
    by_name = {device.name: device for device in devices()}
    assert {name: by_name[name].published for name in PUBLISHED} == PUBLISHED
    wrong = {device.name for device in devices() if device.is_published_wrong}
    assert wrong == {"Arduino Portenta H7", "Raspberry Pi Zero"}
    assert by_name["Raspberry Pi Zero"].ram_bytes == 512 * 2**20
    assert by_name["Raspberry Pi Pico"].published_bytes == by_name["Raspberry Pi Pico"].ram_bytes == 264 * 1024
    assert by_name["Samsung Galaxy Watch4"].published_bytes == 3 * 2**29


def test_a_catalogue_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(ENTRY + 'flash_bytes = 5\nnote = "small"\npublished = "2 KB"\n')
    (device,) = devices(path)
    assert device == Device(
        name="mine",
        kind="board",
        core="a core",
        ram_bytes=1_000,
        flash_bytes=5,
        source="its datasheet",
        url="https://example.org/mine",
        checked=True,
        published="2 KB",
        note="small",
    )
    assert device.is_published_wrong
    assert not replace(device, published=None).is_published_wrong


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no device"),
        ("device = []", "holds no device"),
        ('device = "x"', "holds no device"),
        ("device = [3]", "device 1: expected a table, got 3"),
        ("[[devices]]\nname = 'x'", "unknown key 'devices'; the nearest known one is 'device'"),
        ("[[device", "is not TOML"),
        ("a = " + "[" * 5_000, "is not TOML"),
        ("a = " + "1" * 5_000, "is not TOML"),
        ("[[device]]\nname = 'x'", r"device 1 \(x\): Device needs kind, core, ram_bytes, source, url, checked"),
        (ENTRY + "flahs_bytes = 3", r"device 1 \(mine\): unknown key 'flahs_bytes'; .*'flash_bytes'"),
        (ENTRY + "type = 'phone'", r"device 1 \(mine\): unknown key 'type'; say what it is with kind"),
        (ENTRY + ENTRY.replace('"mine"', '"MINE"'), "holds 'mine' twice"),
        (ENTRY.replace("1_000", "-1"), "ram_bytes must lie between 1 and 2.50, got -1"),
        (ENTRY.replace("1_000", "0"), "ram_bytes must lie between"),
        (ENTRY.replace("1_000", str(1 << 60)), "ram_bytes must lie between"),
        (ENTRY.replace("1_000", "nan"), "expected int, got nan"),
        (ENTRY.replace("1_000", "inf"), "expected int, got inf"),
        (ENTRY.replace("1_000", "true"), "expected int, got True"),
        (ENTRY.replace("1_000", "'1 KB'"), "expected int, got '1 KB'"),
        (ENTRY + "flash_bytes = 0", "flash_bytes must lie between"),
        (ENTRY.replace('"board"', '"toaster"'), "'toaster' is not one of 'microcontroller', 'board'"),
        (ENTRY.replace('"mine"', '"  "'), "name must be one line"),
        (ENTRY.replace('"mine"', '"a\\nb"'), "name must be one line"),
        (ENTRY.replace('"mine"', '"\\u001b[31mred"'), "name must be one line"),
        (ENTRY.replace('"mine"', f'"{"x" * 301}"'), "name must be one line"),
        (ENTRY + 'note = "a\\nb"', "note must be one line"),
        (ENTRY.replace("https://example.org/mine", "http://example.org"), "url must be the https"),
        (ENTRY.replace("https://example.org/mine", "https://["), "url must be the https"),
        (ENTRY.replace("https://example.org/mine", "javascript:alert(1)"), "url must be the https"),
        (ENTRY.replace("https://example.org/mine", "https://exa mple.org"), "url must be the https"),
        (ENTRY.replace("= true", "= 1"), "expected bool, got 1"),
        (ENTRY + 'published = "about 3 KB"', "published must be a quantity"),
    ],
)
def test_a_catalogue_that_cannot_be_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        parse_devices(text, where="mine.toml")


def test_a_catalogue_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"absent\.toml cannot be read"):
        devices(tmp_path / "absent.toml")
    with pytest.raises(SettingError, match="cannot be read"):
        devices(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingError, match=r"binary\.toml cannot be read"):
        devices(tmp_path / "binary.toml")
