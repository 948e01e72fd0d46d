"""This file tests the four laws of encodings: decode, rewrite, restrict, streams."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle.core.affine import quantize
from dwindle.core.codebook import kmeans_1d
from dwindle.core.encoding import (
    Affine,
    Codebook,
    Dense,
    Scaled,
    Sparse,
    affine_of,
    code_range,
    codebook_of,
    decode,
    describe,
    restrict,
    rewrite,
    shape_of,
    streams,
    support_of,
)
from dwindle.core.granularity import PerChannel, PerGroup, PerTensor
from dwindle.core.half import to_half
from dwindle.errors import EncodingError

SHAPES = st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)


def random_support(shape, generator):
    return torch.rand(shape, generator=generator) < 0.6


def clustered(values, codebook_size=4):
    clustering = kmeans_1d(values, codebook_size)
    return Codebook(clustering.indices, Dense(clustering.centroids))


def to_affine(values, support, *, is_codebook):
    return quantize(values, n_bits=8, support=support)


def to_codebook(values, support, *, is_codebook):
    return clustered(torch.where(support, values, 0.0), 2)


def to_shifted(values, support, *, is_codebook):
    return Dense(values + 1.0)


def as_half(values, support, *, is_codebook):
    return to_half(values)


@st.composite
def encodings(draw, *, with_floats=False):
    """Draw any encoding; `with_floats` leaves out those whose innermost values are integer codes."""
    shape = draw(SHAPES)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    values = torch.randn(shape, generator=generator)
    leaf = draw(
        st.sampled_from(
            ["dense", "half", "codebook", "half codebook"] + ([] if with_floats else ["affine", "affine codebook"])
        )
    )
    match leaf:
        case "dense":
            encoding = Dense(values)
        case "affine":
            granularity = draw(st.sampled_from([PerTensor(), PerChannel(0), PerGroup(3)]))
            encoding = quantize(values, n_bits=draw(st.integers(2, 16)), granularity=granularity)
        case "codebook":
            encoding = clustered(values)
        case "half":
            encoding = to_half(values)
        case "half codebook":
            encoding = rewrite(clustered(values), as_half)
        case _:
            encoding = rewrite(clustered(values), to_affine)
    if draw(st.booleans()):
        encoding = Sparse(random_support(shape, generator), encoding)
    if not isinstance(encoding, Dense) and draw(st.booleans()):
        axis = draw(st.integers(0, len(shape) - 1))
        encoding = Scaled(encoding, torch.randn(shape[axis], generator=generator), axis)
    return encoding


@given(encodings())
def test_decode_has_the_shape_and_is_zero_outside_the_support(encoding):
    decoded = decode(encoding)
    assert decoded.shape == shape_of(encoding)
    assert decoded.dtype == torch.float32
    support = support_of(encoding)
    if support is not None:
        assert (decoded[~support] == 0).all()


def test_decode_of_each_member():
    codes = torch.tensor([[1, 2], [3, 4]], dtype=torch.int32)
    scale, zero = torch.tensor([0.5, 2.0]), torch.tensor([1, 0], dtype=torch.int32)
    affine = Affine(codes, scale, zero, PerChannel(0), 4, signed=False)
    assert decode(affine).tolist() == [[0.0, 0.5], [6.0, 8.0]]
    support = torch.tensor([[True, False], [False, True]])
    sparse = Sparse(support, Dense(torch.full((2, 2), math.nan).masked_fill(support, 7.0)))
    assert decode(sparse).tolist() == [[7.0, 0.0], [0.0, 7.0]]
    assert decode(Scaled(affine, torch.tensor([1.0, -1.0]), 1)).tolist() == [[0.0, -0.5], [6.0, -8.0]]
    values = torch.ones(2, dtype=torch.float64)
    assert decode(Dense(values)) is values


@given(encodings(with_floats=True), st.sampled_from([to_affine, to_codebook, to_shifted]))
def test_rewrite_keeps_every_structure_on_the_way_down(encoding, fit):
    if fit is to_shifted and not isinstance(encoding, Dense | Sparse | Codebook):
        return
    rewritten = rewrite(encoding, fit)
    assert shape_of(rewritten) == shape_of(encoding)
    assert isinstance(rewritten, Scaled) == isinstance(encoding, Scaled)
    before, after = support_of(encoding), support_of(rewritten)
    assert (before is None) == (after is None)
    if before is not None and after is not None:
        assert torch.equal(before, after)
    shared, still_shared = codebook_of(encoding), codebook_of(rewritten)
    if shared is not None:
        assert still_shared is not None
        assert still_shared.codebook_size <= shared.codebook_size


@given(encodings(with_floats=True))
def test_rewriting_to_integers_stays_close(encoding):
    rewritten = rewrite(encoding, to_affine)
    assert affine_of(rewritten) is not None
    largest = float(decode(encoding).abs().max()) if decode(encoding).numel() else 0.0
    factor = encoding.factor.abs().max().item() if isinstance(encoding, Scaled) and encoding.factor.numel() else 1.0
    bound = max(largest, factor * 4.0) / 100
    assert torch.allclose(decode(rewritten), decode(encoding), rtol=0, atol=bound)


def test_rewrite_of_centroids_says_so_and_composes_indices():
    encoding = Codebook(torch.tensor([0, 1, 2, 3], dtype=torch.uint8), Dense(torch.tensor([0.0, 0.1, 5.0, 5.1])))
    seen = []

    def fit(values, support, *, is_codebook):
        seen.append(is_codebook)
        return clustered(values, 2)

    merged = rewrite(encoding, fit)
    assert seen == [True]
    assert codebook_of(merged).codebook_size == 2
    assert decode(merged).tolist() == pytest.approx([0.05, 0.05, 5.05, 5.05])
    rewrite(Dense(torch.ones(2)), fit)
    assert seen == [True, False]


def test_centroids_that_meet_on_a_code_become_one():
    encoding = Codebook(torch.tensor([3, 1, 2, 0], dtype=torch.uint8), Dense(torch.tensor([0.0, 1.0, 2.0, 2.004])))
    merged = rewrite(encoding, to_affine)
    apart = rewrite(replace(encoding, centroids=Dense(torch.tensor([0.0, 1.0, 2.0, 3.0]))), to_affine)
    assert describe(merged) == describe(apart).replace("4,", "3,")
    assert decode(merged).tolist() == pytest.approx([2.0, 1.0, 2.0, 0.0], abs=0.02)
    assert codebook_of(merged).indices.dtype == torch.uint8


@pytest.mark.parametrize("wrap", [False, True])
def test_integer_codes_have_nothing_left_to_rewrite(wrap):
    affine = quantize(torch.randn(3, 4), n_bits=8)
    for encoding in (
        affine,
        Sparse(torch.ones(3, 4, dtype=torch.bool), affine),
        rewrite(clustered(torch.randn(9)), to_affine),
    ):
        target = Scaled(encoding, torch.ones(shape_of(encoding)[0]), 0) if wrap else encoding
        with pytest.raises(EncodingError, match="no float values left to re-encode; put this step before"):
            rewrite(target, to_affine)


@given(encodings(), st.integers(0, 100))
def test_restrict_only_takes_away(encoding, seed):
    support = random_support(tuple(shape_of(encoding)), torch.Generator().manual_seed(seed))
    restricted = restrict(encoding, support)
    expected = torch.where(support, decode(encoding), 0.0)
    assert torch.equal(decode(restricted), expected)
    earlier = support_of(encoding)
    assert torch.equal(support_of(restricted), support if earlier is None else support & earlier)
    assert describe(restrict(restricted, support)) == describe(restricted)


@given(encodings())
def test_streams_are_whole_numbers_below_their_alphabet(encoding):
    names = []
    for name, symbols, alphabet_size in streams(encoding):
        names.append(name)
        assert symbols.ndim == 1
        if alphabet_size is not None and symbols.numel():
            assert int(symbols.min()) >= 0
            assert int(symbols.max()) < alphabet_size
    assert len(names) == len(set(names))


def test_streams_leave_out_what_lies_outside_the_support():
    support = torch.tensor([True, False, True])
    encoding = Scaled(Sparse(support, quantize(torch.tensor([1.0, 0.0, -1.0]), n_bits=4)), torch.ones(3), 0)
    found = {name: (symbols.tolist(), size) for name, symbols, size in streams(encoding)}
    assert found == {
        "scaled.support": ([True, False, True], 2),
        "scaled.values.codes": ([15, 1], 16),
        "scaled.values.scale": ([pytest.approx(1 / 7)], None),
        "scaled.values.zero_point": ([0], None),
        "factor": ([1.0, 1.0, 1.0], None),
    }
    names = [stream.name for stream in streams(Sparse(support, rewrite(clustered(torch.ones(3)), to_affine)))]
    assert names[:3] == ["support", "values.indices", "values.centroids.codes"]


def test_describe_and_the_parts():
    values = torch.randn(4, 5)
    dense, affine, codebook = Dense(values), quantize(values, n_bits=6), clustered(values)
    assert (affine_of(dense), codebook_of(dense), support_of(dense)) == (None, None, None)
    assert affine_of(affine) is affine
    assert codebook_of(affine) is None
    assert support_of(codebook) is None
    nested = Scaled(Sparse(values > 0, codebook), torch.ones(4), 0)
    assert codebook_of(nested) is codebook
    assert affine_of(nested) is None
    assert describe(nested) == "Scaled(Sparse(Codebook(4, Dense)))"
    assert describe(affine) == "Affine(6 bit)"


@pytest.mark.parametrize(("n_bits", "signed", "ends"), [(2, True, (-2, 1)), (16, False, (0, 65535))])
def test_code_range(n_bits, signed, ends):
    assert code_range(n_bits, signed=signed) == ends


def make_affine(*, codes=(0, 1), n_scales=1, n_bits=4, granularity=None, dtype=torch.float32, zero_point=0):
    scale, zero_point = torch.ones(n_scales, dtype=dtype), torch.full((n_scales,), zero_point, dtype=torch.int32)
    return Affine(
        torch.tensor(codes, dtype=torch.int32), scale, zero_point, granularity or PerTensor(), n_bits, signed=True
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_affine(n_bits=1), r"n_bits must be in \[2, 16\], got 1"),
        (lambda: make_affine(n_bits=17), "got 17"),
        (lambda: make_affine(n_scales=2), "has 1 scales, got 2 scales"),
        (lambda: make_affine(codes=(0, 8)), r"\[-8, 7\], got \[0, 8\]"),
        (lambda: make_affine(zero_point=8), r"zero points must lie in \[-8, 7\], got \[8, 8\]"),
        (lambda: make_affine(dtype=torch.float64), "scale must be float32, got torch.float64"),
        (lambda: Scaled(make_affine(), torch.ones(2, dtype=torch.float16), 0), "factor must be float32"),
        (lambda: make_affine(codes=(-9, 0)), r"got \[-9, 0\]"),
        (
            lambda: Codebook(torch.zeros(3, dtype=torch.uint8), make_affine(n_scales=2, granularity=PerChannel(0))),
            "centroids share one scale",
        ),
        (lambda: Codebook(torch.zeros(3, dtype=torch.uint8), Dense(torch.empty(0))), "at least one centroid"),
        (lambda: Codebook(torch.tensor([3], dtype=torch.uint8), Dense(torch.ones(3))), r"\[0, 2\], got \[3, 3\]"),
        (lambda: Sparse(torch.ones(3), Dense(torch.ones(3))), "support must be bool of shape"),
        (lambda: Sparse(torch.ones(2, dtype=torch.bool), Dense(torch.ones(3))), r"shape \(2,\)"),
        (lambda: Scaled(make_affine(), torch.ones(3), 0), r"shape \(3,\) does not fit axis 0"),
        (lambda: Scaled(make_affine(), torch.ones(2), 1), "axis 1"),
        (lambda: Scaled(make_affine(), torch.ones(2), -1), "axis -1"),
    ],
)
def test_what_contradicts_itself_cannot_be_made(make, message):
    with pytest.raises(EncodingError, match=message):
        make()


def test_a_scaled_tensor_does_not_forget_its_structure():
    support = torch.ones(2, dtype=torch.bool)
    scaled = Scaled(Sparse(support, Dense(torch.ones(2))), torch.ones(2), 0)
    assert describe(rewrite(scaled, to_shifted)) == "Scaled(Sparse(Dense))"
    broken = Scaled(Dense(torch.ones(2)), torch.ones(2), 0)  # the types forbid it, a caller without them may do it
    with pytest.raises(EncodingError, match="rewritten as Dense, which forgets its structure"):
        rewrite(broken, to_shifted)
    nested = Scaled(scaled, torch.ones(2), 0)
    with pytest.raises(EncodingError, match="outermost and cannot be nested"):
        restrict(nested, support)
