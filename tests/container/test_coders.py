from __future__ import annotations

import bisect
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwindle.container import coders
from dwindle.container.bits import BitReader, BitWriter, golomb_lengths, pack, unpack
from dwindle.container.coders import Coded, decode, encode
from dwindle.container.frequencies import PRECISION, Frequencies, fit, read_frequencies
from dwindle.container.symbols import ANS, CONSTANT, GAPS, PACKED, open_symbols, take_places
from dwindle.errors import ContainerError


def entropy_bytes(symbols):
    counts = np.bincount(symbols)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum()) / 8


def skewed(n, alphabet_size, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.random(alphabet_size) ** 4 + 1e-6
    return rng.choice(alphabet_size, size=n, p=weights / weights.sum()).astype(np.uint16)


def places_of(coded, n, piece=7_001):
    symbols = open_symbols(coded.coder, coded.payload, n, 2)
    found = [take_places(symbols, min(piece, n - start)) + start for start in range(0, n, piece)]
    symbols.finish()
    return np.concatenate(found)


@pytest.mark.parametrize("alphabet_size", [1, 2, 3, 16, 17, 255, 256, 257, 4096, 65536])
@pytest.mark.parametrize("n", [0, 1, 2, 17, 1000])
def test_round_trip_and_type(alphabet_size, n):
    symbols = skewed(n, alphabet_size, seed=n)
    coded = encode(symbols, alphabet_size)
    decoded = decode(coded, n, alphabet_size)
    assert np.array_equal(decoded, symbols)
    assert decoded.dtype == (np.uint8 if alphabet_size <= 256 else np.uint16)


@given(
    alphabet_size=st.integers(1, 400),
    n=st.integers(0, 600),
    spread=st.floats(0.05, 1),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_round_trip_of_anything(alphabet_size, n, spread, seed):
    rng = np.random.default_rng(seed)
    n_used = max(1, int(alphabet_size * spread))
    used = rng.choice(alphabet_size, size=n_used, replace=False)
    symbols = used[rng.geometric(0.2, size=n).clip(max=n_used) - 1].astype(np.int64)
    coded = encode(symbols, alphabet_size)
    assert np.array_equal(decode(coded, n, alphabet_size), symbols)
    assert len(coded.payload) <= len(pack(symbols, alphabet_size)) or coded.coder == CONSTANT


def test_a_million_symbols_come_close_to_their_entropy():
    symbols = skewed(1_000_000, 16)
    coded = encode(symbols, 16)
    assert coded.coder == ANS
    assert np.array_equal(decode(coded, symbols.size, 16), symbols)
    assert len(coded.payload) <= entropy_bytes(symbols) * 1.0005 + 64


@pytest.mark.parametrize("n", [50, 300, 5_000, 100_000])
@pytest.mark.parametrize("alphabet_size", [2, 16, 256])
def test_size_is_entropy_plus_table_plus_constant(n, alphabet_size):
    symbols = skewed(n, alphabet_size, seed=3)
    n_used = np.unique(symbols).size
    table = 3 + n_used * (2 * math.log2(n + 2) + 1) / 8
    assert len(encode(symbols, alphabet_size).payload) <= entropy_bytes(symbols) * 1.003 + table + 8


def test_all_distinct_symbols_are_packed():
    symbols = np.random.default_rng(0).permutation(65536)
    coded = encode(symbols, 65536)
    assert coded.coder == PACKED
    assert len(coded.payload) == 2 * 65536
    assert np.array_equal(decode(coded, 65536, 65536), symbols)


def test_one_distinct_symbol_takes_no_room():
    coded = encode(np.full(1_000_000, 300), 65536)
    assert coded == Coded(CONSTANT, b"\xac\x02")
    assert (decode(coded, 10, 65536) == 300).all()


@pytest.mark.parametrize("share", [0.0, 0.0002, 0.01, 0.1, 0.3, 0.5, 0.9, 0.999, 1.0])
def test_supports_at_every_sparsity(share):
    support = np.random.default_rng(1).random(40_000) < share
    coded = encode(support.view(np.uint8), 2)
    assert np.array_equal(places_of(coded, support.size), np.flatnonzero(support))
    assert np.array_equal(decode(coded, support.size, 2), support)
    assert len(coded.payload) <= entropy_bytes(support.view(np.uint8)) * 1.01 + 45


def test_a_sparse_support_is_coded_as_gaps():
    support = (np.random.default_rng(1).random(200_000) < 0.1).view(np.uint8)
    assert encode(support, 2).coder == GAPS
    assert encode(1 - support, 2).coder == GAPS
    for kept in (support, 1 - support):
        assert np.array_equal(places_of(encode(kept, 2), kept.size), np.flatnonzero(kept))


@pytest.mark.parametrize("distance", [0, 14, 15, 16, 254, 255, 256, 30_000])
def test_gaps_of_every_length(distance):
    support = np.zeros(distance + 40_000, dtype=np.uint8)
    support[[distance, distance + 1, distance + 20, distance + 30_000]] = 1
    for kept in (support, 1 - support):
        payload = coders._encode_gaps(kept)
        assert np.array_equal(decode(Coded(GAPS, payload), kept.size, 2), kept)


GOLDEN = [
    (PACKED, [1, 2, 3, 0, 4], 5, "2988"),
    (CONSTANT, [7] * 9, 300, "07"),
    (ANS, [0] * 40 + [1, 2, 0, 3] * 3, 4, "209ff8664e723432cca5ca1a"),
    (ANS, [0] * 70 + [1] + [0] * 300 + [1] + [0] * 29, 2, "38810380422b858b05"),
]


@pytest.mark.parametrize(("coder", "symbols", "alphabet_size", "payload"), GOLDEN)
def test_golden_bytes(coder, symbols, alphabet_size, payload):
    assert encode(np.array(symbols), alphabet_size) == Coded(coder, bytes.fromhex(payload))
    assert decode(Coded(coder, bytes.fromhex(payload)), len(symbols), alphabet_size).tolist() == symbols


def test_golden_gaps():
    symbols = np.array([0] * 70 + [1] + [0] * 300 + [1] + [0] * 29)
    golden = bytes.fromhex("050f1a20289520f06902a0cb")
    assert coders._encode_gaps(symbols) == golden
    assert np.array_equal(decode(Coded(GAPS, golden), symbols.size, 2), symbols)


def test_ans_words_follow_the_document():
    """docs/format.md in twenty lines of integer arithmetic, without constriction."""
    symbols = skewed(700, 40, seed=5).astype(int)
    coded = encode(symbols, 40)
    assert coded.coder == ANS
    frequencies, start = read_frequencies(coded.payload, 40)
    n_used, t = frequencies.used.size, frequencies.log_total
    edges = [0, *np.cumsum(frequencies.counts).tolist()]
    left = [(c * ((1 << PRECISION) - n_used) >> t) + i for i, c in enumerate(edges)]
    raw = coded.payload[start:] + bytes(-(len(coded.payload) - start) % 4)
    words = np.frombuffer(raw, "<u4").tolist()
    state, found = 0, []
    while words and state < 1 << 32:
        state = state << 32 | words.pop()
    for _ in symbols:
        low = state & ((1 << PRECISION) - 1)
        rank = bisect.bisect_right(left, low) - 1
        state = (state >> PRECISION) * (left[rank + 1] - left[rank]) + low - left[rank]
        if state < 1 << 32 and words:
            state = state << 32 | words.pop()
        found.append(int(frequencies.used[rank]))
    assert found == symbols.tolist()
    assert state == 0
    assert not words


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=40), st.integers(0, 15))
@settings(max_examples=50, deadline=None)
def test_golomb_numbers(values, order):
    bits = BitWriter()
    for value in values:
        bits.golomb(value, order)
    payload = bits.payload()
    reader = BitReader(payload)
    assert [reader.golomb(order) for _ in values] == values
    assert reader.n_bytes_used() == len(payload) == -(-int(golomb_lengths(np.array(values), np.array([order]))[0]) // 8)


@given(st.lists(st.integers(0, 5_000), min_size=2, max_size=60).filter(lambda c: sum(x > 0 for x in c) > 1))
@settings(max_examples=80, deadline=None)
def test_frequency_tables(histogram):
    frequencies = fit(np.array(histogram))
    assert int(frequencies.counts.sum()) == 1 << frequencies.log_total
    assert (frequencies.counts > 0).all()
    table = frequencies.write()
    assert len(table) == -(-frequencies.n_table_bits() // 8)
    read, n_bytes = read_frequencies(table + b"rest", len(histogram))
    assert n_bytes == len(table)
    assert np.array_equal(read.used, frequencies.used)
    assert np.array_equal(read.counts, frequencies.counts)


def test_a_coarse_total_still_gives_every_symbol_a_share():
    histogram = np.array([1] * 15 + [1_000_000])
    assert (fit(histogram).counts > 0).all()
    many = np.bincount(np.random.default_rng(0).zipf(1.3, 3000).clip(max=2000))
    assert int(fit(many).counts.sum()) == 1 << fit(many).log_total


def table(log_total, counts, used=None):
    used = np.arange(len(counts)) if used is None else np.array(used)
    return Frequencies(used, np.array(counts), log_total).write()


BROKEN = [
    ("packed, one byte too long", PACKED, b"\0\0\0", 5, 3, "do not fit"),
    ("packed, padding set", PACKED, b"\x01", 3, 3, "padding after packed"),
    ("packed, beyond the alphabet", PACKED, b"\xc0", 1, 3, "outside an alphabet"),
    ("packed bytes beyond the alphabet", PACKED, b"\xff", 1, 200, "outside an alphabet"),
    ("constant, beyond the alphabet", CONSTANT, b"\x05", 9, 5, "constant stream"),
    ("constant, nothing", CONSTANT, b"", 9, 5, "cut off"),
    ("constant, overlong number", CONSTANT, b"\x81\x00", 9, 5, "longer than it needs"),
    ("constant, trailing byte", CONSTANT, b"\x01\x01", 9, 5, "constant stream"),
    ("constant of no symbols", CONSTANT, b"\x01", 0, 5, "constant stream"),
    ("ans, empty", ANS, b"", 9, 5, "ends too early"),
    ("ans, total too large", ANS, b"\xff\xff", 9, 5, "has total"),
    ("ans, one symbol in use", ANS, table(3, [8]), 9, 5, "two symbols or more"),
    ("ans, beyond its total", ANS, table(2, [3, 3]), 9, 5, "sum to its total"),
    ("ans, beyond the alphabet", ANS, table(2, [1, 1, 1, 1]), 9, 3, "beyond its alphabet"),
    ("ans, zeros beyond the alphabet", ANS, table(1, [1, 1], [0, 4000]), 9, 3, "beyond its alphabet"),
    ("ans, endless zeros", ANS, b"\x10" + bytes(40), 9, 3, "starts with more than"),
    ("ans, cut inside a number", ANS, table(16, [30000, 35536])[:-2], 9, 3, "ends too early"),
    ("ans, padding set", ANS, table(1, [1, 1])[:-1] + bytes([table(1, [1, 1])[-1] | 1]), 9, 3, "padding after a freq"),
    ("ans, zero byte at the end", ANS, table(1, [1, 1]) + b"\x05\0", 9, 3, "zero byte"),
    ("ans, words left over", ANS, table(1, [1, 1]) + b"\x05" * 40, 9, 3, "holds more"),
    ("gaps, empty", GAPS, b"", 9, 2, "never empty"),
    ("gaps, wide alphabet", GAPS, b"\0", 9, 3, "two symbols"),
    ("gaps within gaps", GAPS, b"\x07\x0f\x02\0\0", 9, 2, "cannot cover"),
    ("gaps, longest of zero", GAPS, b"\x01\x00\x02\0\0", 9, 2, "cannot cover"),
    ("gaps, longest too long", GAPS, b"\x01\x80\x02\x02\0", 9, 2, "cannot cover"),
    ("gaps, more than symbols", GAPS, b"\x01\x0f\x0a" + bytes(5), 9, 2, "cannot cover"),
    ("a huge gap", GAPS, b"\x01\x0f\x02\xff", 9, 2, "reach position"),
    ("gaps, no counts", GAPS, b"\x01", 9, 2, "cut off"),
    ("gaps, wide alphabet", GAPS, b"\x01\x0f\x01\0", 9, 300, "two symbols"),
    ("unknown coder", 9, b"", 9, 2, "coder 9 is unknown"),
]


@pytest.mark.parametrize(
    ("coder", "payload", "n", "alphabet_size", "words"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN]
)
def test_broken_payloads(coder, payload, n, alphabet_size, words):
    with pytest.raises(ContainerError, match=words):
        decode(Coded(coder, payload), n, alphabet_size)


@pytest.mark.parametrize("alphabet_size", [-1, 65537])
def test_impossible_alphabets(alphabet_size):
    with pytest.raises(ContainerError, match="not possible"):
        encode(np.zeros(3, np.int64), alphabet_size)
    with pytest.raises(ContainerError, match="not possible"):
        decode(Coded(PACKED, b""), 3, alphabet_size)


def test_unpack_is_the_inverse_of_pack():
    symbols = np.arange(1000) % 700
    assert np.array_equal(unpack(pack(symbols, 700), 1000, 700), symbols)
