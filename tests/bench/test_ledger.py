"""This file tests the ledger: what is appended comes back, whatever happens in the middle of a write."""

from __future__ import annotations

import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwindle.bench.ledger import Ledger
from dwindle.bench.measurement import LATENCY
from dwindle.errors import LedgerError

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)
facts = st.dictionaries(st.text(), plain, max_size=3)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.text(min_size=1), facts), max_size=4))
def test_entries_come_back_in_order(entries: list[tuple[str, dict[str, object]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "deep" / "ledger.jsonl")
        ledger.append("first", {})
        for kind, data in entries:
            ledger.append(kind, data)
        assert [(entry.kind, entry.data) for entry in ledger.read()] == [("first", {}), *entries]
        assert ledger.torn == ()
        assert len(ledger.path.read_bytes().splitlines()) == 1 + len(entries)


@settings(deadline=None, max_examples=40)
@given(facts, st.data())
def test_a_kill_at_any_byte_loses_at_most_the_entry_being_written(fact: dict[str, object], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.jsonl")
        ledger.append("before", {"n": 1})
        n_whole = ledger.path.stat().st_size
        ledger.append("cut", fact)
        n_all = ledger.path.stat().st_size
        cut = data.draw(st.integers(n_whole, n_all))
        os.truncate(ledger.path, cut)
        survives = cut >= n_all - 1  # only the newline is missing
        expected = ["before", "cut"] if survives else ["before"]
        torn = () if survives or cut == n_whole else (2,)
        assert [entry.kind for entry in ledger.read()] == expected
        assert ledger.torn == torn
        ledger.append("after", {"n": 2})
        assert [entry.kind for entry in ledger.read()] == [*expected, "after"]
        assert ledger.torn == torn


def test_concurrent_appends_all_arrive_also_after_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b'{"kind": "cut", "da')
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: Ledger(path).append("n", {"i": i, "pad": "x" * 5000}), range(64)))
    assert sorted(entry.data["i"] for entry in Ledger(path).read()) == list(range(64))
    assert Ledger(path).torn == (1,)


@pytest.mark.parametrize("damage", [b"not json", b"[1, 2]", b'{"kind": "x"}', b"\xff\xfe"])
def test_a_damaged_line_is_named(tmp_path: Path, damage: bytes) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("run", {})
    with ledger.path.open("ab") as file:
        file.write(damage + b"\n")
    ledger.append("run", {})
    with pytest.raises(LedgerError, match="line 2: not an entry"):
        ledger.read()


def test_an_absent_ledger_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no ledger can be read here"):
        Ledger(tmp_path / "absent.jsonl").read()


def test_numpy_values_and_dataclasses_become_plain(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("confusion", {"counts": np.eye(2, dtype=int), "f": np.float32(0.5), "metric": LATENCY, "p": tmp_path})
    (entry,) = ledger.read()
    assert entry.data["counts"] == [[1, 0], [0, 1]]
    assert entry.data["f"] == 0.5
    assert entry.data["metric"] == {"type": "Metric", "name": "latency", "unit": "ms", "better": -1}
    assert entry.data["p"] == str(tmp_path)
    assert entry.time.endswith("+00:00")


@pytest.mark.parametrize(
    ("data", "place"),
    [({"curve": [{"loss": 1.0}, {"loss": float("nan")}]}, r"stage\.curve\[1\]\.loss"), ({"a": object()}, r"stage\.a")],
)
def test_what_json_cannot_hold_is_named(tmp_path: Path, data: dict[str, object], place: str) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises(LedgerError, match=place + " cannot be written as JSON"):
        ledger.append("stage", data)
    assert not ledger.path.exists()


def test_an_entry_needs_a_kind(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="an entry needs a kind"):
        Ledger(tmp_path / "ledger.jsonl").append("", {})


def test_a_full_disk_is_one_clear_error_and_later_appends_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("run", {})
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    with pytest.raises(LedgerError, match=r"'run' could not be written \(only 10 of \d+ bytes fitted"):
        ledger.append("run", {})
    monkeypatch.undo()
    ledger.append("run", {"n": 2})
    assert [entry.data for entry in ledger.read()] == [{}, {"n": 2}]
    assert ledger.torn == (2,)


def test_every_line_is_json_for_other_readers(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("run", {"name": "größe\n"})
    assert json.loads(ledger.path.read_text()).keys() == {"time", "kind", "data"}


def test_an_entry_is_on_the_disk_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, synced = Ledger(tmp_path / "ledger.jsonl"), []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    ledger.append("run", {})
    ledger.append("run", {})
    file, folder = ledger.path.stat().st_ino, tmp_path.stat().st_ino
    assert synced == [file, folder, file]  # a new file's name is synced too


@pytest.mark.parametrize("content", [b"notes\n", b"\x08\x08onnx", b'{"model": 1}\n'])
def test_a_file_that_is_no_ledger_is_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="is no ledger and was left as it is; name a new file"):
        Ledger(path).append("note", {})
    assert path.read_bytes() == content
