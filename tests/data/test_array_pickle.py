"""This file tests that a pickle is read as data: a hostile one raises one error, runs nothing and takes no memory."""

from __future__ import annotations

import builtins
import contextlib
import os
import pickle
import resource
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.data import array_pickle
from dwindle.data.array_pickle import read_array_pickle
from dwindle.errors import DataError


def read(data):
    return read_array_pickle(data, what="x")


class Calls:
    """Pickles to a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.fixture
def marker(tmp_path):
    """Return a path that hostile pickles try to make."""
    path = tmp_path / "was_here"
    yield path
    assert not path.exists(), "the pickle ran something"


def test_arrays_numbers_text_and_lists():
    images = np.arange(12, dtype=np.uint8).reshape(3, 4)
    content = read(
        pickle.dumps({"data": images, b"labels": [1, 2, 300, -1], "x": {"y": (None, True, "z")}}, protocol=2)
    )
    assert np.array_equal(content["data"], images)
    assert content[b"labels"] == [1, 2, 300, -1]
    assert content["x"] == {"y": (None, True, "z")}


@pytest.mark.parametrize("protocol", [2, 3])
def test_fortran_order(protocol):
    images = np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    assert np.array_equal(read(pickle.dumps({"data": images}, protocol=protocol))["data"], images)


@given(
    st.dictionaries(
        st.binary(min_size=1, max_size=9), st.lists(st.integers(-(2**31), 2**31 - 1), max_size=300), max_size=5
    )
)
def test_what_python_writes_is_read(content):
    assert read(pickle.dumps(content, protocol=2)) == content


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [os.system, builtins.eval, builtins.exec, os.mkdir, builtins.getattr, __import__])
def test_calls_are_refused_unrun(function, protocol, marker):
    text = (
        f"__import__('os').mkdir({str(marker)!r})" if function in {builtins.eval, builtins.exec} else f"mkdir {marker}"
    )
    text = str(marker) if function is os.mkdir else text
    with pytest.raises(DataError, match="x is not a plain array pickle"):
        read(pickle.dumps({b"data": Calls(function, text)}, protocol=protocol))


HEAD = b"\x80\x02"


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'mkdir was_here'\ntR.",  # protocol 0
        HEAD + b"cos\nsystem\nU\x0emkdir was_here\x85R.",
        b"(S'mkdir was_here'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'mkdir was_here'\no.",  # OBJ
        HEAD + b"cbuiltins\ngetattr\ncos\nU\x06system\x86R.",
        HEAD + b"cnumpy.core.multiarray\n_reconstruct\ncos\nsystem\n\x85R.",
        HEAD + b"c_codecs\nencode\nX\x04\x00\x00\x00abcdX\x06\x00\x00\x00base64\x86R.",
        HEAD + b"c_codecs\ndecode\nU\x01aU\x04zlib\x86R.",
        HEAD + b"cnumpy\nload\nU\x01a\x85R.",
        HEAD + b"cnumpy\nndarray.__class__\n.",
        HEAD + b"cnumpy.testing\nrunstring\nU\x01a}\x86R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.",  # STACK_GLOBAL
        HEAD + b"\x82\x01.",  # EXT1
        HEAD + b"U\x01aQ.",  # BINPERSID
        b"Pa\n.",  # PERSID
        HEAD + b"cnumpy\ndtype\nU\x01O\x85R.",  # an object array
        HEAD + b"cnumpy\ndtype\nU\x02f8\x85R.",
        HEAD + b"c_codecs\nencode\nN}X\x0c\x00\x00\x00__defaults__Ns\x86b.",  # BUILD: set an attribute of a stand-in
        HEAD + b"cnumpy\nndarray\n}U\x06valuesNsb.",
        HEAD + b"cnumpy\ndtype\nN}X\x01\x00\x00\x00xNs\x86b.",
        HEAD + b"\x8a\x01\x05.",  # LONG1: no number of an official file is so long
        HEAD + b"K\x01.",  # no mapping
        HEAD + b"}]Ns.",  # a list as a key
        b"",
        b".",
        HEAD,
        HEAD + b"h\x05.",  # an empty slot of the memo
    ],
    ids=lambda program: program.hex(),
)
def test_programs_are_refused_unrun(program, marker):
    before = {name: dict(vars(item)) for name, item in vars(array_pickle).items() if isinstance(item, type)}
    with pytest.raises(DataError, match=r"^x "):
        read(program)
    assert {name: dict(vars(item)) for name, item in vars(array_pickle).items() if isinstance(item, type)} == before


def array(shape, raw, kind=b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"):
    """Return a pickle of one array, with any shape and any bytes."""
    sides = b"(" + b"".join(b"J" + struct.pack("<i", side) for side in shape) + b"t"
    content = b"T" + struct.pack("<i", len(raw)) + raw
    body = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return HEAD + b"}U\x04data" + body + b"(K\x01" + sides + kind + b"\x89" + content + b"tbs."


def test_an_array_as_the_official_files_hold_it():
    assert read(array((2, 3), b"abcdef"))[b"data"].tolist() == [[97, 98, 99], [100, 101, 102]]


@pytest.mark.parametrize(
    ("shape", "raw"),
    [((2**31 - 1, 2**31 - 1), b"a"), ((2, 3), b"abcde"), ((-1, -6), b"abcdef"), ((-6,), b"abcdef"), ((0,), b"a")],
)
def test_an_array_that_promises_what_it_does_not_hold(shape, raw):
    with pytest.raises(DataError, match="an array"):
        read(array(shape, raw))


@pytest.mark.parametrize(
    "program",
    [
        HEAD + b"}r\xff\xff\xff\x7f.",  # slot 2 147 483 647 of the memo: 34 GB in C
        HEAD + b"T\xff\xff\xff\x7fabc.",  # text of 2 GB
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",  # a frame of 8 EB
        HEAD + b"\x8b\xff\xff\xff\x7fabc.",  # a number of 2 GB
        HEAD + b"X\xff\xff\xff\xffabc.",
    ],
    ids=lambda program: program.hex(),
)
def test_sizes_that_the_file_does_not_hold_take_no_memory(program):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError):
        read(program)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_deep_nesting_neither_hangs_nor_crashes():
    with pytest.raises(DataError, match="more than 64 tuples"):
        read(HEAD + b"}" + b")" + b"\x85" * 200_000 + b"Ns.")  # hashing this tuple would overrun the C stack
    assert read(HEAD + b"}U\x01a" + b"]" * 30_000 + b"a" * 29_999 + b"s.").keys() == {b"a"}


@given(st.binary(max_size=60))
def test_any_bytes_give_a_mapping_or_the_error(data):
    with contextlib.suppress(DataError):
        assert isinstance(read(HEAD + data), dict)


@given(st.data())
def test_any_damage_gives_a_mapping_or_the_error(data):
    program = bytearray(array((2, 3), b"abcdef"))
    for _ in range(data.draw(st.integers(1, 3))):
        program[data.draw(st.integers(0, len(program) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError):
        assert isinstance(read(bytes(program)), dict)
