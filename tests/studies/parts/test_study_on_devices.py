"""This file tests the table that sets the files of a study against the memories of devices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dwindle.bench.devices import devices
from dwindle.bench.ledger import Ledger
from dwindle.errors import SettingError
from dwindle.studies.on_devices import devices_table
from dwindle.studies.read import load_study, read_study
from dwindle.studies.results import Results, Variant
from dwindle.studies.shown import OnDevices


@pytest.fixture
def smoke(repository):
    entries = Ledger(repository / "tests/studies/results/golden/digits.jsonl").read()
    return Results.of(entries, Variant("smoke"))


@pytest.fixture
def study():
    return replace(load_study("tian"), on_devices=OnDevices(data="Digits", stages=("dense", "best")))


def test_a_row_for_each_device_and_a_cell_for_each_file(study, smoke):
    table = devices_table(study, smoke)
    assert table is not None
    assert table.header[:4] == ("device", "flash", "RAM", "RAM as published")
    assert table.header[4:] == ("QuantNet dense", "QuantNet best")
    assert len(table.rows) == len(devices())
    assert {len(row) for row in table.rows} == {len(table.header)}


def test_the_shares_are_those_of_the_bytes_in_the_ledger(study, smoke):
    table = devices_table(study, smoke)
    found = smoke.figure("size_bytes", stage="best", network="QuantNet", data="Digits")
    assert table is not None
    assert found is not None
    pico = next(row for row in table.rows if row[0] == "Raspberry Pi Pico")
    flash, ram = pico[5].split(" / ")
    assert float(flash.removesuffix(" %")) == pytest.approx(100 * found.value / (2 << 20), rel=0.01)
    assert float(ram.removesuffix(" %")) == pytest.approx(100 * found.value / (264 << 10), rel=0.01)


def test_no_table_where_none_is_asked_for_or_nothing_was_made(study, smoke):
    assert devices_table(replace(study, on_devices=None), smoke) is None
    assert devices_table(replace(study, on_devices=OnDevices(data="UCI-HAR", stages=("dense",))), smoke) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('data = "MNIST"\nstages = ["dense"]', "on_devices names the data set 'MNIST'"),
        ('data = "Digits"\nstages = ["nothing"]', "on_devices names the stage 'nothing'"),
        ('data = "Digits"\nstages = ["pruned"]', "has a file for each of its rate"),
    ],
)
def test_what_the_study_does_not_have_is_named(repository, change, message):
    text = (repository / "src/dwindle/studies/tian.toml").read_text(encoding="utf-8")
    asked = '[on_devices]\ndata = "UCI-HAR"\nstages = ["dense", "best"]'
    assert asked in text
    with pytest.raises(SettingError, match=message):
        read_study(text.replace(asked, f"[on_devices]\n{change}"), where="changed")
