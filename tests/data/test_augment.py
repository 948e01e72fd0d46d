"""This file tests augmentation: shapes stay, pixels go where they should, each image by its own draws, seeds repeat."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from dwindle.data.augment import Chain, RandomCrop, RandomFlip, RandomRotation, rotate, with_augmented_copies
from dwindle.errors import DataError, SettingError

CROPS = [RandomCrop(padding=2, mode=mode) for mode in ("constant", "reflect", "replicate")]
FLIPS = [RandomFlip(), RandomFlip(is_vertical=True)]
EVERY = [*CROPS, *FLIPS, RandomRotation(), Chain((RandomCrop(padding=1), RandomFlip(), RandomRotation(degrees=10)))]
sizes = st.tuples(st.integers(0, 9), st.integers(1, 3), st.integers(3, 9), st.integers(3, 9))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(shape, dtype=torch.float32):
    return (torch.rand(shape, generator=seeded(9)) * 255).to(dtype)


def name(augment):
    return repr(augment)[:40]


@pytest.mark.parametrize("augment", EVERY, ids=name)
@given(shape=sizes, seed=st.integers(0, 99))
def test_shape_and_type_stay_and_a_seed_repeats(augment, shape, seed):
    batch = images(shape)
    before = batch.clone()
    out = augment(batch, seeded(seed))
    assert out.shape == batch.shape
    assert out.dtype == batch.dtype
    assert torch.isfinite(out).all()
    assert torch.equal(out, augment(batch, seeded(seed)))
    assert torch.equal(batch, before)


@pytest.mark.parametrize("augment", EVERY, ids=name)
def test_each_image_is_varied_by_its_own_draws_alone(augment):
    batch = images((6, 3, 8, 5))
    other = batch.clone()
    other[[0, 1, 3, 4, 5]] = 7
    assert torch.equal(augment(batch, seeded())[2], augment(other, seeded())[2])


@pytest.mark.parametrize("augment", EVERY, ids=name)
def test_images_are_varied_differently(augment):
    out = augment(images((1, 3, 9, 9)).repeat(40, 1, 1, 1), seeded())
    assert len({image.numpy().tobytes() for image in out}) > 1


@pytest.mark.parametrize("augment", [*CROPS, *FLIPS], ids=name)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_every_type_gives_the_same_as_floats(augment, dtype):
    batch = images((5, 2, 6, 7), torch.uint8).to(dtype)
    out = augment(batch, seeded())
    assert out.dtype == dtype
    assert torch.equal(out.float(), augment(batch.float(), seeded()))


@pytest.mark.parametrize("augment", FLIPS, ids=name)
@given(shape=sizes, seed=st.integers(0, 99))
def test_flips_give_each_image_or_its_mirror_image(augment, shape, seed):
    batch = images(shape)
    mirrored = batch.flip(-2 if augment.is_vertical else -1)
    for out, image, mirror in zip(augment(batch, seeded(seed)), batch, mirrored, strict=True):
        assert torch.equal(out, image) or torch.equal(out, mirror)


def test_flips_come_at_their_probability():
    batch = torch.tensor([[[[0.0, 1.0]]]]).repeat(4000, 1, 1, 1)
    for p in (0, 0.3, 1):
        share = float(RandomFlip(p=p)(batch, seeded())[:, 0, 0, 0].mean())
        assert share == pytest.approx(p, abs=0.03 if 0 < p < 1 else 0)


@given(shape=sizes, padding=st.integers(1, 5), seed=st.integers(0, 99))
def test_a_crop_is_a_shift_with_zeros_beyond_the_edge(shape, padding, seed):
    batch = images(shape) + 1
    out = RandomCrop(padding=padding)(batch, seeded(seed))
    for row in range(len(batch)):
        shifts = {
            (down, right)
            for down in range(-padding, padding + 1)
            for right in range(-padding, padding + 1)
            if torch.equal(out[row], shifted(batch[row], down, right))
        }
        assert shifts


def shifted(image, down, right):
    """Return the image with row y holding row y + down, column x holding column x + right, and zeros beyond."""
    out = torch.zeros_like(image)
    _, height, width = image.shape
    if abs(down) < height and abs(right) < width:
        rows, columns = (
            range(max(0, -down), min(height, height - down)),
            range(max(0, -right), min(width, width - right)),
        )
        inner = image[:, rows.start + down : rows.stop + down, columns.start + right : columns.stop + right]
        out[:, rows.start : rows.stop, columns.start : columns.stop] = inner
    return out


def test_every_place_is_cropped_equally_often():
    batch = torch.arange(9.0).reshape(1, 1, 3, 3).repeat(9000, 1, 1, 1) + 1
    centre = RandomCrop(padding=1)(batch, seeded())[:, 0, 1, 1].long().bincount()
    assert centre[1:].min() > 850
    assert centre[1:].sum() == 9000


def test_what_lies_beyond_the_edge():
    row = torch.tensor([[[[1.0, 2.0, 3.0]] * 3]]).repeat(200, 1, 1, 1)
    seen = {
        mode: {tuple(image[0, 1].tolist()) for image in RandomCrop(padding=1, mode=mode)(row, seeded())}
        for mode in ("constant", "reflect", "replicate")
    }
    assert seen["constant"] >= {(0, 1, 2), (1, 2, 3), (2, 3, 0)}
    assert seen["reflect"] == {(2, 1, 2), (1, 2, 3), (2, 3, 2)}
    assert seen["replicate"] == {(1, 1, 2), (1, 2, 3), (2, 3, 3)}


def test_a_mirror_reaches_no_further_than_the_image():
    with pytest.raises(SettingError, match="4 x 9 pixels cannot be mirrored 4 pixels"):
        RandomCrop(padding=4, mode="reflect")(images((1, 1, 4, 9)), seeded())


@given(st.integers(2, 9), st.integers(-4, 4))
def test_quarter_turns_of_squares_are_exact(side, quarters):
    batch = images((2, 3, side, side))
    turned = rotate(batch, torch.full((2,), 90.0 * quarters))
    assert torch.allclose(turned, torch.rot90(batch, quarters, (2, 3)), atol=0.02)


@given(sizes)
def test_no_turn_changes_nothing_and_half_a_turn_is_both_flips(shape):
    batch = images(shape)
    n = len(batch)
    assert torch.allclose(rotate(batch, torch.zeros(n)), batch, atol=0.01)
    assert torch.allclose(rotate(batch, torch.full((n,), 180.0)), batch.flip(-2, -1), atol=0.02)


def test_a_turn_keeps_angles_in_images_that_are_not_square():
    batch = torch.zeros(1, 1, 41, 81)
    batch[0, 0, 20, 50] = 1  # 10 pixels right of the centre
    y, x = divmod(int(rotate(batch, torch.tensor([90.0]))[0, 0].argmax()), 81)
    assert (y, x) == (10, 40)  # 10 pixels above it


def test_angles_stay_within_the_bound():
    batch = torch.zeros(300, 1, 41, 41)
    batch[:, 0, 20, 36] = 1
    places = RandomRotation(degrees=30)(batch, seeded()).flatten(1).argmax(1)
    degrees = torch.atan2(20.0 - places // 41, places % 41 - 20.0) * 180 / torch.pi
    assert 27 < float(degrees.max()) < 33
    assert -33 < float(degrees.min()) < -27


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_floats_are_turned_in_full_floats(dtype):
    batch = torch.rand(2, 1, 5, 5).to(dtype)
    out = RandomRotation()(batch, seeded())
    assert torch.equal(out, RandomRotation()(batch.float(), seeded()).to(dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_bytes_cannot_be_turned(dtype):
    with pytest.raises(DataError, match=f"a rotation interpolates pixels and these are {dtype}"):
        RandomRotation()(torch.zeros(1, 1, 4, 4).to(dtype), seeded())


@pytest.mark.parametrize("augment", EVERY, ids=name)
@pytest.mark.parametrize("shape", [(4,), (3, 8, 8), (1, 1, 1, 8, 8)])
def test_what_is_no_batch_of_images_is_refused(augment, shape):
    with pytest.raises(DataError, match=r"takes images \(batch, channels, height, width\), got shape"):
        augment(torch.zeros(shape), seeded())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandomCrop(padding=0), "padding must be at least 1"),
        (lambda: RandomCrop(mode="circular"), "mode must be constant, reflect or replicate"),
        (lambda: RandomFlip(p=1.1), r"p must be in \[0, 1\]"),
        (lambda: RandomFlip(p=float("nan")), "p must be"),
        (lambda: RandomRotation(degrees=0), "degrees must be in"),
        (lambda: RandomRotation(degrees=181), "degrees must be in"),
    ],
)
def test_settings_that_cannot_be(make, words):
    with pytest.raises(SettingError, match=words):
        make()


def test_an_empty_chain_changes_nothing():
    batch = images((2, 1, 3, 3))
    assert torch.equal(Chain(())(batch, seeded()), batch)


@pytest.mark.parametrize("n", [0, 5])
def test_copies_follow_the_originals(n):
    dataset = TensorDataset(images((n, 1, 4, 4)), torch.arange(n))
    both = with_augmented_copies(dataset, RandomFlip(p=1), seed=3)
    assert torch.equal(both.tensors[0][:n], dataset.tensors[0])
    assert torch.equal(both.tensors[0][n:], dataset.tensors[0].flip(-1))
    assert both.tensors[1].tolist() == [*range(n), *range(n)]
    again = with_augmented_copies(dataset, RandomCrop(), seed=3)
    assert torch.equal(again.tensors[0], with_augmented_copies(dataset, RandomCrop(), seed=3).tensors[0])
