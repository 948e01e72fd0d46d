"""This file writes and reads the ledger: an append-only file with one JSON object a line, that survives a kill.

A line is written with one `write` to a file opened with O_APPEND and then synced, so lines of several writers do not
mix. A kill or a full disk in the middle of a write leaves a torn last line. The next append closes it with CAN (0x18,
ASCII's "cancel", which JSON never holds unescaped) and a newline; so a torn line stays recognizable wherever it stands,
and a line that is unreadable without that mark was damaged by something else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

from dwindle.errors import LedgerError
from dwindle.settings import to_plain

_CANCEL: Final = b"\x18"
_STARTS: Final = (b'{"time"', b'{"kind"', b'{"data"')
"""Every entry begins with one of them; a file that does not is no ledger, and a line behind its end would break it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: what kind of fact, the fact, and when it was written (ISO 8601, UTC)."""

    kind: str
    data: Mapping[str, Any]
    time: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """The ledger at `path`; the file and its folder appear with the first append."""

    path: Path

    def append(self, kind: str, data: Mapping[str, Any]) -> None:
        """Write one entry and wait until it is on the disk; safe while others append to the same file.

        Dataclasses, enums, paths and NumPy values inside `data` become plain JSON values.

        Raises:
            LedgerError: `data` cannot be written as JSON, or the file cannot be written.
        """
        line = _to_line(kind, data)
        try:
            self._write(line)
        except OSError as error:
            raise LedgerError(
                f"{self.path}: {kind!r} could not be written ({error.strerror or error}); what stood there before is "
                "intact: make room or choose another folder, then run again"
            ) from error

    def read(self) -> tuple[Entry, ...]:
        """Return the whole entries in order; torn lines are left out, see `torn`.

        Raises:
            LedgerError: there is no ledger at `path`, or a line is damaged.
        """
        return tuple(entry for _, entry in self._scan() if entry is not None)

    @property
    def torn(self) -> tuple[int, ...]:
        """Numbers (from 1) of the lines whose write was cut off; nothing in them is returned by `read`."""
        return tuple(number for number, entry in self._scan() if entry is None)

    def _write(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if not _begins_as_ledger(descriptor):
                raise LedgerError(f"{self.path} is no ledger and was left as it is; name a new file or a ledger")
            # Two writers may both see one torn tail; the second then adds a line of a lone CAN, which readers skip.
            whole = line if _ends_whole(descriptor) else _CANCEL + b"\n" + line
            n_written = os.write(descriptor, whole)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if n_written < len(whole):
            raise OSError(None, f"only {n_written} of {len(whole)} bytes fitted, the disk is full")
        if is_new:
            _sync_folder(self.path.parent)

    def _scan(self) -> list[tuple[int, Entry | None]]:
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise LedgerError(
                f"{self.path}: no ledger can be read here ({error.strerror}); name the file that a run wrote"
            ) from error
        found: list[tuple[int, Entry | None]] = []
        for number, line in enumerate(lines, start=1):
            text = line.removesuffix(_CANCEL)
            if not text:
                continue
            may_be_torn = text != line or number == len(lines)
            entry = _parse(text)
            if entry is None and not may_be_torn:
                raise LedgerError(
                    f"{self.path}, line {number}: not an entry ({line[:60]!r}); the file was changed after it was "
                    "written: restore it, or delete this line"
                )
            found.append((number, entry))
        return found


def _to_line(kind: str, data: Mapping[str, Any]) -> bytes:
    if not kind:
        raise LedgerError("an entry needs a kind, got an empty one; name what is recorded, such as 'measurement'")
    entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": kind, "data": to_plain(data)}
    try:
        return json.dumps(entry, allow_nan=False, default=_plain_array, separators=(",", ":")).encode() + b"\n"
    except (TypeError, ValueError) as error:
        where = _first_unwritable(entry["data"], kind)
        raise LedgerError(
            f"{where} cannot be written as JSON ({error}); give finite numbers, text, lists and mappings"
        ) from error


def _plain_array(value: object) -> Any:
    if callable(to_list := getattr(value, "tolist", None)):
        return to_list()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _first_unwritable(value: object, where: str) -> str:
    """Return the path of the innermost value under `value` that JSON refuses, such as `stage.curve[3].loss`."""
    children: list[tuple[str, object]] = []
    if isinstance(value, Mapping):
        children = [(f"{where}.{key}", child) for key, child in cast("Mapping[str, object]", value).items()]
    elif isinstance(value, list):
        children = [(f"{where}[{i}]", child) for i, child in enumerate(cast("list[object]", value))]
    for place, child in children:
        try:
            json.dumps(child, allow_nan=False, default=_plain_array)
        except (TypeError, ValueError):
            return _first_unwritable(child, place)
    return where


def _parse(line: bytes) -> Entry | None:
    try:
        raw = json.loads(line)
        return Entry(kind=raw["kind"], data=raw["data"], time=raw["time"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _begins_as_ledger(descriptor: int) -> bool:
    head = os.pread(descriptor, len(_STARTS[0]), 0)
    return head.startswith(_CANCEL) or any(start.startswith(head) for start in _STARTS)  # a torn one may be shorter


def _ends_whole(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
