from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest

from dwindle.container import Contents, Limits, parse, read, serialize, write
from dwindle.container.blocks import compress, decompress
from dwindle.container.header import MAGIC, PREAMBLE_BYTES, Preamble, dump_json
from dwindle.container.records import (
    AffineRecord,
    CodebookRecord,
    DenseRecord,
    HalfRecord,
    ScaledRecord,
    SparseRecord,
    decode_record,
    describe_record,
)
from dwindle.errors import ChecksumError, ContainerError, HeaderError, TruncatedError, VersionError


def assert_same_state(found, expected):
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def test_round_trip(contents, tmp_path):
    write(tmp_path / "m.dwn", contents)
    back = read(tmp_path / "m.dwn")
    assert_same_state(back.state_dict(), contents.state_dict())
    assert back.aliases == contents.aliases
    assert back.metadata == contents.metadata
    assert back.state_dict()["tied"] is not None
    for name, record in contents.records.items():
        assert describe_record(back.records[name]) == describe_record(record)
    assert list(tmp_path.iterdir()) == [tmp_path / "m.dwn"]


def test_tied_names_share_one_array(contents):
    state = contents.state_dict()
    assert state["tied"] is state["z.dense"]


def test_order_of_names_does_not_matter(contents):
    data = serialize(contents)
    shuffled = replace(
        contents,
        records=dict(reversed(contents.records.items())),
        metadata=dict(reversed(contents.metadata.items())),
    )
    assert serialize(shuffled) == data
    assert serialize(parse(data)) == data


def test_golden_file():
    data = serialize(Contents({"w": DenseRecord(np.array([1, 2], np.float32))}, metadata={"a": 1}))
    header = b'{"aliases":{},"metadata":{"a":1},"tensors":[{"name":"w","record":{"dtype":"float32","kind":"dense",'
    header += b'"values":[16,8]},"shape":[2]}]}'
    streams = np.array([1, 2], "<f4").tobytes()
    codec, stored = compress(header)
    graph_codec, graph = compress(b"")
    body = MAGIC + struct.pack("<HBBIIIIQIII", 1, codec, graph_codec, len(stored), len(header), len(graph), 0, 8,
                               zlib.crc32(stored), zlib.crc32(graph), zlib.crc32(streams))  # fmt: skip
    assert data == body + struct.pack("<I", zlib.crc32(body)) + stored + graph + streams


def test_golden_file_of_version_2():
    data = serialize(Contents({"w": HalfRecord(np.array([1, 2], np.float16))}))
    header = (
        b'{"aliases":{},"metadata":{},"tensors":[{"name":"w","record":{"kind":"half","values":[16,4]},"shape":[2]}]}'
    )
    streams = np.array([1, 2], "<f2").tobytes()
    codec, stored = compress(header)
    graph_codec, graph = compress(b"")
    body = MAGIC + struct.pack("<HBBIIIIQIII", 2, codec, graph_codec, len(stored), len(header), len(graph), 0, 4,
                               zlib.crc32(stored), zlib.crc32(graph), zlib.crc32(streams))  # fmt: skip
    assert data == body + struct.pack("<I", zlib.crc32(body)) + stored + graph + streams
    found = parse(data).state_dict()["w"]
    assert (found.dtype, found.tolist()) == (np.float32, [1.0, 2.0])


@pytest.mark.parametrize("record", [HalfRecord(np.ones(2, np.float16)), DenseRecord(np.ones(2, np.float16))])
def test_a_file_has_the_first_version_that_knows_its_records(record):
    data = serialize(Contents({"w": record}))
    body = bytearray(data[: PREAMBLE_BYTES - 4])
    assert body[len(MAGIC)] == (2 if isinstance(record, HalfRecord) else 1)
    body[len(MAGIC)] = 3 - body[len(MAGIC)]
    changed = bytes(body) + struct.pack("<I", zlib.crc32(body)) + data[PREAMBLE_BYTES:]
    with pytest.raises(HeaderError, match=r"the file says version \d, its records are of version \d"):
        parse(changed)


def test_what_lies_outside_a_support_is_not_stored(contents):
    record = contents.records["sparse.affine"]
    back = parse(serialize(contents)).records["sparse.affine"].values
    outside = np.broadcast_to(back.zero_point.reshape(1, -1, 1), back.codes.shape)
    assert np.array_equal(back.codes, np.where(record.support, record.values.codes, outside))


def test_every_truncation_raises(contents):
    data = serialize(contents)
    for length in range(len(data)):
        with pytest.raises(ContainerError, match=r"."):
            parse(data[:length])


def test_every_bit_flip_raises(contents):
    data = serialize(contents)
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            with pytest.raises(ContainerError, match=r"."):
                parse(bytes(changed))


def test_kinds_of_damage(contents, tmp_path):
    data = serialize(contents)
    path = tmp_path / "m.dwn"
    cases = [
        (b"\x80\x04pickle", HeaderError, "not a .dwn file"),
        (data[:20], TruncatedError, "at least"),
        (data[:-1], TruncatedError, "of its"),
        (data + b"x", HeaderError, "follow the end"),
        (data[:-1] + bytes([data[-1] ^ 1]), ChecksumError, "streams"),
        (b"", TruncatedError, "at least"),
    ]
    for changed, kind, words in cases:
        path.write_bytes(changed)
        with pytest.raises(kind, match=words):
            read(path)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\x08\x0a\x12\x07pytorch", "this is an ONNX file, no .dwn; give a .dwn file"),
        (b"\x08\x08:\x10", "this is an ONNX file, no .dwn"),
        (b"\x1c\x00\x00\x00TFL3", "this is a LiteRT file"),
        (b"\x1c\x00\x00\x00ET12", "this is an ExecuTorch file"),
        (b"PK\x03\x04", "this is a zip archive"),
        (b"<?xml version", "this is an XML file"),
        (b"hello, world", "this is not a .dwn file \\(its first bytes are others\\); give a .dwn file"),
        (MAGIC.replace(b"\r\n", b"\n"), "whose first bytes were changed, as a transfer as text does"),
        (b"\x09" + MAGIC[1:], "whose first bytes were changed, as a transfer as text does"),
    ],
)
def test_another_file_is_named(tmp_path, start, words):
    (tmp_path / "m.dwn").write_bytes(start + bytes(100))
    with pytest.raises(HeaderError, match=words):
        read(tmp_path / "m.dwn")


def test_a_later_version_is_named(contents):
    body = bytearray(serialize(contents)[: PREAMBLE_BYTES - 4])
    body[len(MAGIC)] = 9
    changed = bytes(body) + struct.pack("<I", zlib.crc32(body)) + serialize(contents)[PREAMBLE_BYTES:]
    with pytest.raises(VersionError, match="version 9 is unknown"):
        parse(changed)


def test_absent_file(tmp_path):
    with pytest.raises(ContainerError, match="cannot read"):
        read(tmp_path / "absent.dwn")


def test_a_full_disk_leaves_nothing(contents, tmp_path, monkeypatch):
    path = tmp_path / "m.dwn"
    path.write_bytes(b"earlier")

    def refuse(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ContainerError, match=r"No space left on device.*free space"):
        write(path, contents)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_real_full_disk(contents):
    from pathlib import Path

    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(ContainerError, match="cannot write"):
        write(Path("/dev/full/m.dwn"), contents)


def dense(*shape, dtype=np.float32):
    return DenseRecord(np.zeros(shape, dtype))


BAD = [
    ({"a": dense(2)}, {"b": "c"}, "alias 'b'"),
    ({"a": dense(2)}, {"a": "a"}, "alias 'a'"),
    ({"": dense(2)}, {}, "1 to 1024 bytes"),
    ({"a\ud800": dense(2)}, {}, "in UTF-8"),
    ({"a": SparseRecord(np.ones(4, np.bool_), dense(3))}, {}, r"'a'.*support must be bool of shape \(3,\)"),
    ({"a": SparseRecord(np.ones((2, 1), np.bool_), dense(2, 2))}, {}, "of shape"),
    ({"a": SparseRecord(np.ones(4), dense(4))}, {}, "not float64"),
    ({"a": ScaledRecord(CodebookRecord(np.zeros((2, 2), np.uint8), dense(2)), np.ones(3), 0)}, {}, "factor of shape"),
    ({"a": ScaledRecord(CodebookRecord(np.zeros((2, 2), np.uint8), dense(2)), np.ones(2), 2)}, {}, "axis 2"),
    ({"a": CodebookRecord(np.zeros(2), dense(2))}, {}, "whole numbers, not float64"),
    ({"x" * 1025: dense(2)}, {}, "1 to 1024 bytes"),
    ({"a": HalfRecord(np.zeros(2, np.float32))}, {}, "'a'.*float16 numbers, not float32"),
    ({"a": dense(2, dtype=np.complex64)}, {}, "'a'.*complex64"),
    ({"a": dense(*[1] * 9)}, {}, "rank 9"),
    ({"a": CodebookRecord(np.array([2], np.uint8), dense(2))}, {}, "do not fit an alphabet"),
    ({"a": CodebookRecord(np.array([2], np.int32), dense(70000))}, {}, "use at most 65536"),
    ({"a": AffineRecord(np.array([9]), np.ones(1), np.array([200]), ("tensor",), 8, True)}, {}, "zero point"),
    ({"a": AffineRecord(np.array([900]), np.ones(1), np.array([0]), ("tensor",), 8, True)}, {}, "do not fit"),
    ({"a": AffineRecord(np.array([9]), np.ones(2), np.zeros(2), ("tensor",), 8, True)}, {}, "other than"),
]


@pytest.mark.parametrize(("records", "aliases", "words"), BAD)
def test_contents_that_cannot_be_stored(records, aliases, words):
    with pytest.raises(ContainerError, match=words):
        serialize(Contents(records, aliases))


@pytest.mark.parametrize("metadata", [{"x": float("nan")}, {"x": object()}, {"x": b"bytes"}])
def test_metadata_must_be_json(metadata):
    with pytest.raises(ContainerError, match="finite JSON"):
        serialize(Contents({}, metadata=metadata))


def test_too_large_a_header():
    with pytest.raises(ContainerError, match="keep weights out"):
        serialize(Contents({}, metadata={"x": "a" * (17 << 20)}))


def test_what_no_reader_would_accept_is_not_written(monkeypatch):
    from dwindle.container import writer

    contents = Contents({"a": dense(5), "b": dense(6)}, {"c": "a"})
    for limits, message in (
        (Limits(n_elements=10), "more than 10 numbers"),
        (Limits(n_tensors=1), "at most 1 tensors"),
    ):
        monkeypatch.setattr(writer, "DEFAULT_LIMITS", limits)
        with pytest.raises(ContainerError, match=f"no reader would accept this file: .*{message}"):
            serialize(contents)
    deep = current = {}
    for _ in range(100_000):
        current["x"] = current = {}
    with pytest.raises(ContainerError, match="metadata must be finite JSON"):
        serialize(Contents({}, metadata=deep))


def test_no_tensors_at_all():
    assert parse(serialize(Contents({}))).state_dict() == {}


@pytest.mark.parametrize("raw", [b"", b"abc", b"abc" * 1000, bytes(range(256)) * 30])
def test_blocks(raw):
    codec, stored = compress(raw)
    assert decompress(codec, stored, len(raw)) == raw
    for codec, packed in ((1, zlib.compress(raw)), (2, lzma_block(raw))):
        assert decompress(codec, packed, len(raw)) == raw
        with pytest.raises(ContainerError, match="decompress"):
            decompress(codec, packed[:-1], len(raw))
        with pytest.raises(ContainerError, match="decompress"):
            decompress(codec, packed, len(raw) + 1)
        if raw:
            with pytest.raises(ContainerError, match="decompress"):
                decompress(codec, packed, len(raw) - 1)
        with pytest.raises(ContainerError, match="decompress"):
            decompress(codec, packed + b"\0", len(raw))


def lzma_block(raw):
    import lzma

    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 20}]
    return lzma.compress(raw, format=lzma.FORMAT_RAW, filters=filters)


def test_a_block_that_explodes_is_cut_off():
    bomb = zlib.compress(bytes(100 << 20))
    with pytest.raises(ContainerError, match="does not decompress to its 10 bytes"):
        decompress(1, bomb, 10)
    with pytest.raises(HeaderError, match="codec 7"):
        decompress(7, b"", 0)
    with pytest.raises(ContainerError, match="cannot be decompressed"):
        decompress(1, b"no zlib", 10)


def test_infinities_are_values():
    record = AffineRecord(np.array(100), np.array([3e38], np.float32), np.array([-100]), ("tensor",), 8, True)
    assert np.isinf(decode_record(record))
    scaled = ScaledRecord(
        CodebookRecord(np.array([0], np.uint8), DenseRecord(np.array([3e38], np.float32))), np.array([9], np.float32), 0
    )
    assert np.isinf(decode_record(scaled))


@pytest.mark.parametrize("codebook_size", [1, 255, 256, 300])
def test_sparse_codebooks_of_every_size(codebook_size):
    rng = np.random.default_rng(0)
    kind = np.uint8 if codebook_size <= 256 else np.int32
    indices = rng.integers(0, codebook_size, 5000).astype(kind)
    support = rng.random(5000) < 0.4
    centroids = rng.normal(size=codebook_size).astype(np.float32)
    centroids[0] = -0.0
    record = SparseRecord(support, CodebookRecord(indices, DenseRecord(centroids)))
    expected = np.where(support, centroids[indices], np.float32(0))
    assert decode_record(record).tobytes() == expected.tobytes()
    assert_same_state(parse(serialize(Contents({"w": record}))).state_dict(), {"w": expected})


def test_limits_can_be_chosen(contents):
    data = serialize(contents)
    for limits in (Limits(header_bytes=10), Limits(n_tensors=3), Limits(n_elements=100)):
        with pytest.raises(HeaderError, match=r"limit|at most|promises|must be a whole"):
            parse(data, limits=limits)


def test_memory_that_does_not_suffice(contents, monkeypatch):
    from dwindle.container.decode import Decoder

    def refuse(_self, _plan):
        raise MemoryError

    monkeypatch.setattr(Decoder, "record", refuse)
    with pytest.raises(ContainerError, match="does not fit the memory"):
        parse(serialize(contents))


@pytest.mark.parametrize("is_sparse", [False, True])
def test_a_group_longer_than_a_row_costs_no_more_than_the_row(is_sparse):
    affine = AffineRecord(
        np.arange(12, dtype=np.int32).reshape(4, 3), np.ones(4), np.zeros(4), ("group", 1 << 30), 8, signed=True
    )
    record = SparseRecord(affine.codes % 2 == 0, affine) if is_sparse else affine
    expected = affine.codes * (record.support if is_sparse else 1)
    tracemalloc.start()
    try:
        found = parse(serialize(Contents({"w": record}))).state_dict()["w"]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(found, expected)
    assert peak_bytes < 1 << 26


def test_preamble_knows_the_size(contents):
    data = serialize(contents)
    assert Preamble.parse(data[:PREAMBLE_BYTES], len(data), Limits()).file_size == len(data)


def test_json_is_canonical():
    assert dump_json({"b": 1, "a": "é"}) == b'{"a":"\\u00e9","b":1}'
    assert json.loads(dump_json({"x": [1.5]})) == {"x": [1.5]}


READER = """
import sys
for name in ("torch", "onnx", "scipy", "lightning_fabric", "sklearn"):
    sys.modules[name] = None
from pathlib import Path
from dwindle.container import read, write
from dwindle.container.inspect import inspect_file
import dwindle.container.session, dwindle.container.integer
contents = read(Path(sys.argv[1]))
write(Path(sys.argv[2]), contents)
inspect_file(Path(sys.argv[2]))
print(len(contents.state_dict()))
"""


def test_a_device_without_torch_reads_and_writes(contents, tmp_path):
    write(tmp_path / "m.dwn", contents)
    command = [sys.executable, "-c", READER, str(tmp_path / "m.dwn"), str(tmp_path / "again.dwn")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stderr
    assert done.stdout.strip() == str(len(contents.records) + 1)
    assert (tmp_path / "again.dwn").read_bytes() == (tmp_path / "m.dwn").read_bytes()


def test_import_is_light():
    heavy = "{'torch', 'onnx', 'onnxruntime'}"
    code = f"import sys, dwindle.container.inspect as _; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
