"""This file tests that decoding piece by piece gives the same bits as decoding records, in less memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwindle.container import (
    Contents,
    Limits,
    coders,
    decode,
    parse,
    read,
    read_weights,
    serialize,
    symbols,
    values,
    write,
)
from dwindle.container.reader import open_bytes, open_file
from dwindle.container.records import (
    AffineRecord,
    CodebookRecord,
    DenseRecord,
    HalfRecord,
    ScaledRecord,
    SparseRecord,
    decode_record,
)
from dwindle.container.scales import ScaleMap
from dwindle.container.symbols import GAPS, open_symbols, take_places
from dwindle.container.window import Window
from dwindle.errors import ContainerError, HeaderError, TruncatedError

PIECES = (1, 7, 64, 1 << 17)


@pytest.fixture(params=PIECES)
def piece(request, monkeypatch):
    """Small pieces, so that small tensors have many of them."""
    for module in (coders, decode, symbols, values):
        monkeypatch.setattr(module, "PIECE", request.param)
    monkeypatch.setattr(symbols, "_LOADED_WORDS", 5 if request.param < 64 else 1 << 18)
    monkeypatch.setattr(symbols, "_GAPS_AT_ONCE", max(request.param // 3, 1))
    return request.param


def same(found, expected):
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def test_every_kind_in_pieces_of_every_size(contents, piece, tmp_path):
    expected = contents.state_dict()
    write(tmp_path / "m.dwn", contents)
    same(read_weights(tmp_path / "m.dwn"), expected)
    same(read(tmp_path / "m.dwn").state_dict(), expected)
    same(open_bytes(serialize(contents)).state_dict(), expected)


def test_tied_names_share_one_array(contents, tmp_path):
    write(tmp_path / "m.dwn", contents)
    state = read_weights(tmp_path / "m.dwn")
    assert state["tied"] is state["z.dense"]
    with open_file(tmp_path / "m.dwn") as opened:
        assert "tied" in opened
        assert "nothing" not in opened
        assert opened.array("tied").tobytes() == state["tied"].tobytes()


granularities = st.sampled_from(
    [("tensor",), ("channel", 0), ("channel", 1), ("group", 1), ("group", 3), ("group", 100)]
)


@st.composite
def affine_records(draw, shape):
    granularity = draw(granularities)
    n_bits, signed = draw(st.integers(2, 16)), draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    n_scales = ScaleMap.of(shape, granularity).n_scales if granularity != ("tensor",) else 1
    low = -(1 << (n_bits - 1)) if signed else 0
    codes = rng.integers(low, low + (1 << n_bits), shape, dtype=np.int32)
    scale = rng.uniform(0.001, 1, n_scales).astype(np.float32)
    zero_point = rng.integers(low, low + (1 << n_bits), n_scales, dtype=np.int32)
    if draw(st.booleans()):
        zero_point[:] = zero_point[0]
    return AffineRecord(codes, scale, zero_point, granularity, n_bits, signed)


@st.composite
def all_records(draw):
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=2, max_size=4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    inner = draw(
        st.one_of(
            affine_records(shape),
            st.sampled_from(["float16", "float32", "float64", "int8", "int64", "bool"]).map(
                lambda dtype: DenseRecord(rng.normal(size=shape).astype(dtype))
            ),
            st.just(HalfRecord(rng.normal(size=shape).astype(np.float16))),
            st.integers(1, 300).map(
                lambda size: CodebookRecord(
                    rng.integers(0, size, shape).astype(np.uint8 if size <= 256 else np.int32),
                    DenseRecord(rng.normal(size=size).astype(np.float32)),
                )
            ),
        )
    )
    if draw(st.booleans()):
        inner = SparseRecord(rng.random(shape) < draw(st.floats(0, 1)), inner)
    if draw(st.booleans()) and not isinstance(inner, DenseRecord):
        axis = draw(st.integers(0, len(shape) - 1))
        inner = ScaledRecord(inner, rng.normal(size=shape[axis]).astype(np.float32), axis)
    return inner


@given(record=all_records(), size=st.sampled_from([1, 5, 64]))
@settings(max_examples=60, deadline=None)
def test_any_record_decodes_to_the_same_bits(record, size):
    data = serialize(Contents({"w": record}))
    with pytest.MonkeyPatch.context() as patch:
        for module in (coders, decode, symbols, values):
            patch.setattr(module, "PIECE", size)
        expected = decode_record(record)
        same(open_bytes(data).state_dict(), {"w": expected})
        same(parse(data).state_dict(), {"w": expected})
        assert serialize(parse(data)) == data


@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple),
    granularity=st.sampled_from([("tensor",), ("channel", 0), ("group", 1), ("group", 4), ("group", 1 << 30)]),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
@settings(max_examples=80, deadline=None)
def test_scales_of_a_run_and_of_chosen_weights(shape, granularity, cut):
    scales = ScaleMap.of(shape, granularity)
    record = AffineRecord(
        np.zeros(shape, np.int32), np.arange(scales.n_scales, dtype=np.float32), np.zeros(1), granularity, 8, True
    )
    expected = np.broadcast_to(record.spread_scale(), shape).reshape(-1)
    start, stop = sorted(int(share * expected.size) for share in cut)
    chosen = np.arange(start, stop)
    for places in (slice(start, stop), chosen) if start < stop else (chosen,):
        found = np.broadcast_to(scales.at(record.scale, places), (stop - start,))
        assert np.array_equal(found, expected[start:stop])


@pytest.mark.parametrize("alphabet_size", [2, 16, 255, 60_000])
def test_words_are_loaded_block_by_block(alphabet_size, monkeypatch):
    rng = np.random.default_rng(alphabet_size)
    found = np.minimum(rng.geometric(0.01 if alphabet_size > 16 else 0.6, 90_000) - 1, alphabet_size - 1)
    coded = coders._encode_ans(found, coders.fit(np.bincount(found, minlength=alphabet_size)))
    n_reads = []

    def read_part(start, stop):
        n_reads.append(stop - start)
        return coded[start:stop]

    monkeypatch.setattr(symbols, "_LOADED_WORDS", 900)
    stream = open_symbols(symbols.ANS, Window(read_part, 0, len(coded)), found.size, alphabet_size)
    parts = [stream.take(n) for n in (1, 0, *[997] * 90, 268, 1)]
    stream.finish()
    assert np.array_equal(np.concatenate(parts), found)
    assert len(n_reads) > 5


def test_streams_that_were_not_read_to_their_end():
    noise = np.random.default_rng(0).geometric(0.3, 5000).clip(max=9)
    coded = coders.encode(noise, 10)
    stream = open_symbols(coded.coder, coded.payload, noise.size, 10)
    stream.take(4000)
    with pytest.raises(ContainerError, match="more than its symbols"):
        stream.finish()


def test_gaps_behind_the_last_place_are_checked():
    payload = b"\x03\x01\x05\x01"  # five times "skip one position" in eight positions: allowed
    stream = open_symbols(GAPS, payload, 8, 2)
    assert take_places(stream, 8).size == 0
    stream.finish()
    with pytest.raises(ContainerError, match="cannot cover"):
        open_symbols(GAPS, payload, 4, 2)
    stream = open_symbols(GAPS, b"\x01\x0f\x02\xff", 20, 2)
    with pytest.raises(ContainerError, match="reach position"):
        take_places(stream, 20)


def support_files():
    support = np.arange(100) % 3 == 0
    record = SparseRecord(support, DenseRecord(np.ones(100, np.float32)))
    return serialize(Contents({"w": record}))


def test_a_support_is_held_to_its_count(monkeypatch):
    data = support_files()
    opened = open_bytes(data)
    plan = opened.header.plans["w"]
    for n_kept, words in ((33, "33|or more"), (35, "keeps 34 weights, its header says 35")):
        wrong = type(plan)(plan.shape, n_kept, plan.support, plan.values)
        for way in (decode.Decoder.array, decode.Decoder.record):
            with pytest.raises(ContainerError, match=words):
                way(decode.Decoder(opened.streams, 0), wrong)


def test_a_file_that_shrinks_while_it_is_read(contents, tmp_path):
    path = tmp_path / "m.dwn"
    path.write_bytes(serialize(contents) + b"")
    with open_file(path) as opened:
        path.write_bytes(b"")
        with pytest.raises(ContainerError, match="ended at byte"):
            opened.state_dict()
    with path.open("rb") as file, pytest.raises(TruncatedError, match="copy it again"):
        Window.of_file(file, 10)[:]


def test_windows():
    window = Window.of_bytes(b"0123456789")
    assert window[2:4] == b"23"
    assert window[8:20] == b"89"
    assert window[5:2] == b""
    assert window.part(3, 4)[1:] == b"456"
    assert list(window.part(1, 5).pieces(2)) == [b"12", b"34", b"5"]
    assert len(window.part(1, 5)) == 5


def test_decoded_bytes_are_limited(contents):
    data = serialize(contents)
    with pytest.raises(HeaderError, match=r"more than 100 bytes of decoded tensors.*larger limits"):
        parse(data, limits=Limits(decoded_bytes=100))
    n_bytes = sum(array.nbytes for array in parse(data).state_dict().values())
    assert parse(data, limits=Limits(decoded_bytes=2 * n_bytes)).records


def forms():
    rng = np.random.default_rng(0)
    shape = (1000, 3000)  # one tensor: decoding tensor after tensor is not enough
    weight = (rng.standard_t(4, shape) * 0.02).astype(np.float32)
    codes = AffineRecord(
        np.rint(weight * 100).clip(-127, 127).astype(np.int32),
        np.full(1000, 0.01, np.float32),
        np.zeros(1000, np.int32),
        ("channel", 0),
        8,
        signed=True,
    )
    indices = np.rint(weight * 60).clip(-8, 7).astype(np.int8).view(np.uint8) % 16
    book = CodebookRecord(indices, DenseRecord(rng.normal(size=16).astype(np.float32)))
    support = np.abs(weight) > 0.045
    return {
        "dense": DenseRecord(weight),
        "half": HalfRecord(weight.astype(np.float16)),
        "affine": codes,
        "book": book,
        "sparse.affine": SparseRecord(support, codes),
        "scaled.sparse.book": ScaledRecord(SparseRecord(support, book), rng.normal(size=1000).astype(np.float32), 0),
        "little.sparse.book": SparseRecord(np.abs(weight) > 0.005, book),
    }


@pytest.mark.parametrize("name", forms())
def test_decoding_needs_little_more_than_its_result(name, tmp_path):
    path = tmp_path / "m.dwn"
    write(path, Contents({"w": forms()[name]}))
    tracemalloc.start()
    try:
        found = read_weights(path)["w"]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes <= 1.3 * found.nbytes
