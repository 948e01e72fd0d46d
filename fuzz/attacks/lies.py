"""This file lists attacks on the reader, one function for each idea; each returns the bytes of a file that lies."""
# ruff: file-ignore[undocumented-public-function] (the name of each function says what it does)

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

from fuzz.forge import affine, dense, forge, header, tensor

FOUR = bytes(16)


def a_terabyte_of_weights() -> bytes:
    return forge(header(tensor(dense(17, 4), shape=[1 << 19, 1 << 19])), bytes(4))


def a_terabyte_in_many_tensors() -> bytes:
    names = [f"{i:05}" for i in range(2000)]
    return forge(header(*(tensor(dense(17, 4), name=n, shape=[1 << 27]) for n in names)), bytes(4) * 2000)


def four_gigabytes_of_wide_numbers() -> bytes:
    return forge(header(tensor(dense(17, 8, "float64"), shape=[(1 << 29) + 1])), bytes(8))


def one_length_beyond_all_limits() -> bytes:
    return forge(header(tensor(dense(17, 4), shape=[1 << 62])), bytes(4))


def an_empty_tensor_of_huge_rank() -> bytes:
    return forge(header(tensor(dense(16, 0), shape=[0, 1 << 30, 1 << 30, 1 << 30])))


def a_terabyte_of_scales() -> bytes:
    return forge(header(tensor(affine(granularity=["group", 1], codes=[1, 1]), shape=[1 << 29])), bytes(9))


def a_header_larger_than_the_limit() -> bytes:
    return forge(b"{}", header_raw=1 << 31)


def a_header_that_explodes() -> bytes:
    bomb = zlib.compress(b" " * (15 << 20))
    return forge(bomb, header_codec=1, header_raw=1000)


def a_graph_larger_than_the_limit() -> bytes:
    return forge(header(), graph_raw=1 << 31)


def streams_beyond_the_end() -> bytes:
    return forge(header(tensor(dense())), FOUR, streams=1 << 40)


def overlapping_streams() -> bytes:
    """Streams have no offsets; two that are longer than the section together are the nearest to an overlap."""
    return forge(header(tensor(dense(), name="a"), tensor(dense(), name="b")), FOUR)


def a_hole_after_the_streams() -> bytes:
    return forge(header(tensor(dense())), FOUR + b"hidden")


def a_stream_of_negative_length() -> bytes:
    return forge(header(tensor(dense(16, -16))), FOUR)


def duplicate_keys() -> bytes:
    return forge(b'{"aliases":{},"aliases":{},"metadata":{},"tensors":[]}')


def duplicate_tensors() -> bytes:
    return forge(header(tensor(dense()), tensor(dense())), FOUR * 2)


def unsorted_tensors() -> bytes:
    return forge(header(tensor(dense(), name="b"), tensor(dense(), name="a")), FOUR * 2)


def deeply_nested_json() -> bytes:
    return forge(b'{"aliases":{},"metadata":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b',"tensors":[]}')


def deeply_nested_records() -> bytes:
    record: dict[str, Any] = dense()
    for _ in range(50):
        record = {"kind": "sparse", "n_kept": 4, "support": [1, 1], "record": record}
    return forge(header(tensor(record)), bytes([1]) * 50 + FOUR)


def a_length_that_is_nan() -> bytes:
    return forge(json.dumps(header(tensor(dense(), shape=[float("nan")]))).encode(), FOUR)


def a_length_that_is_infinite() -> bytes:
    return forge(json.dumps(header(tensor(dense(), shape=[4]))).replace("[4]", "[1e999]").encode(), FOUR)


def a_length_that_is_a_float() -> bytes:
    return forge(header(tensor(dense(), shape=[4.0])), FOUR)


def a_length_that_is_true() -> bytes:
    return forge(header(tensor(dense(16, 4), shape=[True])), bytes(4))


def a_number_of_a_million_digits() -> bytes:
    return forge(b'{"aliases":{},"metadata":{"a":' + b"9" * 1_000_000 + b'},"tensors":[]}')


def text_that_is_not_utf8() -> bytes:
    return forge(b'{"aliases":{},"metadata":{"\xff":1},"tensors":[]}')


def a_name_that_is_half_a_character() -> bytes:
    return forge(header(aliases={"\ud800": "\ud801"}))


def a_tensor_whose_name_is_half_a_character() -> bytes:
    return forge(header(tensor(dense(), name="\ud800")), FOUR)


def an_alias_of_nothing() -> bytes:
    return forge(header(aliases={"a": "b"}))


def an_alias_of_a_list() -> bytes:
    return forge(header(tensor(dense()), aliases={"a": ["w"]}), FOUR)


def aliases_as_a_list() -> bytes:
    return forge(header(aliases=[]))


def metadata_as_a_list() -> bytes:
    return forge(header(metadata=[]))


def tensors_as_an_object() -> bytes:
    return forge({"aliases": {}, "metadata": {}, "tensors": {}})


def a_list_for_a_header() -> bytes:
    return forge(b"[]")


def an_unknown_key() -> bytes:
    return forge(header(offsets=[]))


def an_unknown_kind() -> bytes:
    return forge(header(tensor({"kind": "pickle", "values": [16, 16]})), FOUR)


def a_kind_that_is_a_list() -> bytes:
    return forge(header(tensor({"kind": ["dense"]})))


def a_record_that_is_a_number() -> bytes:
    return forge(header(tensor(3)))


def a_missing_field() -> bytes:
    return forge(header(tensor({"kind": "dense", "values": [16, 16]})), FOUR)


def a_stream_that_is_a_number() -> bytes:
    return forge(header(tensor({"kind": "dense", "dtype": "float32", "values": 16})), FOUR)


def an_object_dtype() -> bytes:
    return forge(header(tensor(dense(dtype="object"))), FOUR)


def a_dtype_that_is_a_list() -> bytes:
    return forge(header(tensor({"kind": "dense", "dtype": ["float32"], "values": [16, 16]})), FOUR)


def a_shape_that_is_a_text() -> bytes:
    return forge(header(tensor(dense(), shape="4")), FOUR)


def a_rank_beyond_the_limit() -> bytes:
    return forge(header(tensor(dense(16, 4), shape=[1] * 9)), bytes(4))


def an_index_out_of_range() -> bytes:
    book = {"kind": "codebook", "size": 3, "indices": [0, 1], "centroids": dense(16, 12)}
    return forge(header(tensor(book)), b"\xff" + bytes(12))


def an_empty_codebook_of_weights() -> bytes:
    book = {"kind": "codebook", "size": 0, "indices": [0, 0], "centroids": dense(16, 0)}
    return forge(header(tensor(book)))


def a_codebook_within_a_codebook() -> bytes:
    book = {"kind": "codebook", "size": 4, "indices": [0, 1], "centroids": dense()}
    return forge(header(tensor({**book, "centroids": book})), b"\x1b" * 2 + FOUR)


def centroids_with_many_scales() -> bytes:
    book = {"kind": "codebook", "size": 4, "indices": [0, 1], "centroids": affine(granularity=["group", 1])}
    return forge(header(tensor(book)), bytes(13))


def a_huge_gap() -> bytes:
    gaps = b"\x01\x0f\x02\xff"
    record = {"kind": "sparse", "n_kept": 2, "support": [3, len(gaps)], "record": dense(16, 8)}
    return forge(header(tensor(record)), gaps + bytes(8))


def millions_of_gaps_that_lead_nowhere() -> bytes:
    gaps = b"\x03\x01\x80\x80\x80\x04\x01"  # 2^23 symbols "skip one position", in seven bytes
    record = {"kind": "sparse", "n_kept": 1, "support": [3, len(gaps)], "record": dense(16, 4)}
    return forge(header(tensor(record, shape=[1 << 23])), gaps + bytes(4))


def a_support_that_keeps_other_weights() -> bytes:
    record = {"kind": "sparse", "n_kept": 1, "support": [0, 1], "record": dense(16, 4)}
    return forge(header(tensor(record)), b"\xf0" + bytes(4))


def more_kept_than_there_are() -> bytes:
    record = {"kind": "sparse", "n_kept": 5, "support": [0, 1], "record": dense(16, 20)}
    return forge(header(tensor(record)), b"\xf0" + bytes(20))


def codes_of_ninety_bits() -> bytes:
    return forge(header(tensor(affine(n_bits=90))), bytes(12))


def signed_as_a_number() -> bytes:
    return forge(header(tensor(affine(signed=1))), bytes(12))


def a_zero_point_outside_the_codes() -> bytes:
    return forge(header(tensor(affine())), bytes(8) + (1 << 30).to_bytes(4, "little"))


def an_axis_outside_the_shape() -> bytes:
    return forge(header(tensor(affine(granularity=["channel", 1]))), bytes(12))


def groups_of_nothing() -> bytes:
    return forge(header(tensor(affine(granularity=["group", 0]))), bytes(12))


def an_unknown_granularity() -> bytes:
    return forge(header(tensor(affine(granularity=["row"]))), bytes(12))


def a_factor_for_a_scalar() -> bytes:
    record = {"kind": "scaled", "axis": 0, "factor": [16, 4], "record": affine(codes=[0, 1])}
    return forge(header(tensor(record, shape=[])), bytes(13))


def a_coder_from_the_future() -> bytes:
    return forge(header(tensor(dense(99, 16))), FOUR)


def half_floats_before_they_were_known() -> bytes:
    return forge(header(tensor({"kind": "half", "values": [16, 8]})), bytes(8), version=1)


def half_floats_that_are_cut_off() -> bytes:
    return forge(header(tensor({"kind": "half", "values": [16, 7]})), bytes(7), version=2)


def half_floats_of_another_type() -> bytes:
    return forge(header(tensor({"kind": "half", "dtype": "float32", "values": [16, 8]})), bytes(8), version=2)


def a_codec_from_the_future() -> bytes:
    return forge(b"{}", header_codec=9)


def a_constant_of_a_billion_weights_with_a_wrong_symbol() -> bytes:
    record = {"kind": "sparse", "n_kept": 0, "support": [1, 1], "record": dense(16, 0)}
    return forge(header(tensor(record, shape=[1 << 30])), b"\x07")


ATTACKS: tuple[Callable[[], bytes], ...] = tuple(
    attack
    for name, attack in list(globals().items())
    if callable(attack) and getattr(attack, "__module__", "") == __name__
)
