"""This file tests settings as plain values and back."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.errors import SettingError
from dwindle.settings import from_plain, nearest, require_kinds, to_plain


class Mode(enum.Enum):
    FAST = 1
    SLOW = 2


@dataclass(frozen=True)
class Round:
    radius: float = 1.0


@dataclass(frozen=True)
class Square:
    side: int


@dataclass(frozen=True, kw_only=True)
class Everything:
    count: int
    rate: float = 0.5
    name: str | None = None
    limit: int | None = 8
    is_on: bool = False
    shape: Round | Square = field(default_factory=Round)
    one: Square | None = None
    many: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    mode: Mode = Mode.FAST
    word: Literal["a", "b"] = "a"
    place: Path = Path("here")
    table: Mapping[str, Any] = field(default_factory=dict)
    anything: Any = None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise SettingError(f"count must not be negative, got {self.count}")


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SETTINGS = st.builds(
    Everything,
    count=st.integers(0, 9),
    rate=NUMBERS,
    name=st.none() | st.text().filter(lambda text: text != "none"),
    limit=st.none() | st.integers(),
    is_on=st.booleans(),
    shape=st.builds(Round, NUMBERS) | st.builds(Square, st.integers()),
    one=st.none() | st.builds(Square, st.integers()),
    many=st.lists(st.text()).map(tuple),
    pair=st.tuples(st.integers(), NUMBERS),
    mode=st.sampled_from(Mode),
    word=st.sampled_from(["a", "b"]),
    place=st.sampled_from([Path("x"), Path("a/b.toml")]),
    table=st.dictionaries(st.text(), st.integers()),
    anything=st.none() | st.integers() | st.text().filter(lambda text: text != "none"),
)


@given(settings=SETTINGS)
def test_settings_survive_json(settings: Everything):
    plain = json.loads(json.dumps(to_plain(settings)))
    assert from_plain(Everything, plain, where="job") == settings


def test_none_is_left_out_where_it_is_the_default_and_said_where_it_is_not():
    plain = to_plain(Everything(count=1, limit=None))
    assert plain["limit"] == "none"
    assert "name" not in plain


def test_whole_numbers_are_fine_for_fractions():
    assert type(from_plain(Everything, {"count": 1, "rate": 2}, where="job").rate) is float


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"count": 1, "rat": 2}, r"^job: unknown key 'rat'; the nearest known one is 'rate' \(known: anything, count"),
        ({}, r"^job: Everything needs count"),
        ({"count": -1}, r"^job: count must not be negative, got -1"),
        ({"count": 1.5}, r"^job\.count: expected int, got 1\.5"),
        ({"count": True}, r"^job\.count: expected int, got True"),
        ({"count": "1"}, r"^job\.count: expected int, got '1'"),
        ({"count": 1, "rate": True}, r"^job\.rate: expected float, got True"),
        ({"count": 1, "is_on": 1}, r"^job\.is_on: expected bool, got 1"),
        ({"count": 1, "name": 3}, r"^job\.name: expected str, got 3"),
        ({"count": 1, "word": "c"}, r"^job\.word: 'c' is not one of 'a', 'b'"),
        ({"count": 1, "word": ["a"]}, r"^job\.word: \['a'\] is not one of"),
        ({"count": 1, "mode": "medium"}, r"^job\.mode: 'medium' is not one of fast, slow"),
        ({"count": 1, "mode": 1}, r"^job\.mode: 1 is not one of fast, slow"),
        ({"count": 1, "many": "abc"}, r"^job\.many: expected a list, got 'abc'"),
        ({"count": 1, "many": ["a", 2]}, r"^job\.many\[1\]: expected str, got 2"),
        ({"count": 1, "pair": [1]}, r"^job\.pair: expected 2 values, got 1"),
        ({"count": 1, "table": [1]}, r"^job\.table: expected a table, got \[1\]"),
        ({"count": 1, "shape": 3}, r"^job\.shape: expected a table with type = one of Round, Square, got 3"),
        ({"count": 1, "shape": {"side": 3}}, r"^job\.shape: say which one with type = 'Round' or 'Square'"),
        (
            {"count": 1, "shape": {"type": "Squar"}},
            r"^job\.shape: unknown type 'Squar'; the nearest known one is 'Square'",
        ),
        ({"count": 1, "one": {"side": "x"}}, r"^job\.one\.side: expected int, got 'x'"),
        ({"count": 1, "one": {"type": "Round"}}, r"^job\.one: unknown type 'Round'"),
    ],
)
def test_mistakes_are_named_with_their_place(plain, message):
    with pytest.raises(SettingError, match=message):
        from_plain(Everything, plain, where="job")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 2.0}, "Everything: count must be a whole number, got 2.0"),
        ({"count": True}, "Everything: count must be a whole number, got True"),
        ({"rate": "fast"}, "Everything: rate must be a number, got 'fast'"),
        ({"limit": "8"}, "Everything: limit must be a whole number or None, got '8'"),
        ({"is_on": 1}, "Everything: is_on must be True or False, got 1"),
        ({"name": 3}, "Everything: name must be text or None, got 3"),
        ({"shape": "round"}, "Everything: shape must be a Round or a Square, got 'round'"),
    ],
)
def test_values_of_another_kind_are_refused(change: dict[str, Any], message: str):
    with pytest.raises(SettingError, match=f"^{re.escape(message)}$"):
        require_kinds(replace(Everything(count=1), **change))


@given(settings=SETTINGS)
def test_values_of_their_kind_are_taken(settings: Everything):
    require_kinds(settings)
    require_kinds(replace(settings, rate=1, limit=None, one=None))
    with pytest.raises(SettingError, match="rate must be a number"):
        require_kinds(replace(settings, rate=None))


def test_one_possible_class_needs_no_type():
    assert from_plain(Everything, {"count": 1, "one": {"side": 2}}, where="job").one == Square(2)


def test_nearest_of_nothing_says_so():
    assert nearest("x", []) == "none is known here"


def test_where_nothing_is_near_what_there_is_is_listed():
    assert nearest("tensorrt", ["litert", "torch"]) == "known: litert, torch"
    assert nearest("f1", ["accuracy", "f1_macro"]) == "the nearest known one is 'f1_macro' (known: accuracy, f1_macro)"
    assert nearest("", ["litert"]) == "known: litert"
    assert nearest("lttert", ["litert", "torch"]) == "the nearest known one is 'litert' (known: litert, torch)"
