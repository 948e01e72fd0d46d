"""This file tests identifiers of C: valid, different, and no end of a comment."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from dwindle.exporters.c_names import Names, comment, identifier


@given(st.text(max_size=80))
def test_every_text_becomes_an_identifier(text):
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", identifier(text))
    assert len(identifier(text)) <= 42


@given(st.lists(st.sampled_from(["a", "A", "a.b", "a_b", "a/b", "a_codes", "a codes", "é", "", "int"]), max_size=12))
def test_no_identifier_is_given_out_twice(texts):
    names, suffixes = Names("my model"), ("", "_codes")
    given_out = [f"{names.claim(text, suffixes)}{suffix}".lower() for text in texts for suffix in suffixes[:1]]
    assert len(set(given_out)) == len(given_out)
    assert all(name.startswith("my_model_") for name in given_out)


def test_a_suffix_of_one_name_is_not_another_name():
    names = Names("m")
    assert names.claim("w", ("", "_codes")) == "m_w"
    assert names.claim("w.codes", ("", "_codes")) == "m_w_codes_2"


def test_a_comment_stays_a_comment():
    assert comment("a*/b\n/*c\xe9") == "a* /b\\n/ *c\\xe9"
