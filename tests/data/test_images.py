"""This file tests image folders: what pixels become, the layouts, and that a file which cannot be used is named."""

from __future__ import annotations

import builtins
import io

import numpy as np
import pytest
import torch

from dwindle.data.images import IMAGENET_MEAN, IMAGENET_STD, ImageForm, load_image_folder, read_images
from dwindle.data.nct_crc_he import CLASS_NAMES, load_nct_crc_he
from dwindle.errors import DataError, RuntimeUnavailableError, SettingError

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
BYTES = ImageForm(size=4, keep_bytes=True)


def put(path, colour=(255, 0, 0), size=(4, 4), mode="RGB", **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **settings)
    return path


def fill(root, *, classes=("cat", "dog"), n=10):
    for label, name in enumerate(classes):
        for number in range(n):
            put(root / name / f"{number}.png", (label * 100, number, 7))
    return root


def one(path, form=BYTES):
    return read_images([path], form)[0]


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.TIFF"])
def test_channels_are_red_green_blue(tmp_path, name):
    image = one(put(tmp_path / name, (200, 100, 50)))
    assert image.dtype == torch.uint8
    assert image.shape == (3, 4, 4)
    assert image[:, 1, 2].tolist() == [200, 100, 50]


def test_a_jpeg_is_nearly_its_colour(tmp_path):
    assert (one(put(tmp_path / "x.jpg", (200, 100, 50)))[:, 0, 0].int() - torch.tensor([200, 100, 50])).abs().max() < 4


def test_pixels_keep_their_places_and_are_standardized(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    image = one(tmp_path / "x.png", ImageForm(size=(3, 5)))
    expected = (pixels / 255 - IMAGENET_MEAN) / IMAGENET_STD
    assert image.dtype == torch.float32
    assert torch.allclose(image.permute(1, 2, 0), torch.from_numpy(expected).float(), atol=1e-6)


def test_grey(tmp_path):
    put(tmp_path / "x.png", 100, mode="L")
    assert one(tmp_path / "x.png", ImageForm(size=4, n_channels=1, keep_bytes=True)).unique().tolist() == [100]
    assert one(tmp_path / "x.png").unique().tolist() == [100]
    grey = one(tmp_path / "x.png", ImageForm(size=4, n_channels=1))
    assert grey.shape == (1, 4, 4)
    assert float(grey[0, 0, 0]) == pytest.approx((100 / 255 - sum(IMAGENET_MEAN) / 3) / (sum(IMAGENET_STD) / 3))
    own = one(tmp_path / "x.png", ImageForm(size=4, n_channels=1, mean=(0.5,), std=(0.25,)))
    assert float(own[0, 0, 0]) == pytest.approx((100 / 255 - 0.5) / 0.25)


def test_resizing(tmp_path):
    put(tmp_path / "x.png", (9, 9, 9), size=(13, 7))
    image = one(tmp_path / "x.png", ImageForm(size=(2, 5), keep_bytes=True))
    assert image.shape == (3, 2, 5)
    assert image.unique().tolist() == [9]


def test_transparent_becomes_white(tmp_path):
    assert one(put(tmp_path / "x.png", (0, 0, 0, 0), mode="RGBA")).unique().tolist() == [255]
    put(tmp_path / "y.png", 0, mode="P", transparency=0)
    assert one(tmp_path / "y.png").unique().tolist() == [255]


def test_a_photo_stands_upright(tmp_path):
    image = Image.new("RGB", (4, 4))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[274] = 6  # turn clockwise to see it upright
    image.save(tmp_path / "x.png", exif=exif)
    assert one(tmp_path / "x.png")[0].nonzero().tolist() == [[0, 3]]


def truncated_png():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()[:3000]


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x89PNG\r\n\x1a\n", truncated_png()], ids=["empty", "text", "head", "cut"]
)
def test_a_broken_image_is_named(tmp_path, content):
    fill(tmp_path)
    (tmp_path / "dog" / "5.png").write_bytes(content)
    with pytest.raises(DataError, match=r"dog/5\.png is not an image that can be used .*replace or remove it"):
        load_image_folder(tmp_path, form=BYTES)


def test_deep_pixels_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 60_000, dtype=np.uint16)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"x\.tif .*more than 8 bits a channel, mode I;16"):
        one(tmp_path / "x.tif")


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    put(tmp_path / "x.png", size=(40, 40))
    with pytest.raises(DataError, match=r"x\.png .*decompression bomb"):
        one(tmp_path / "x.png")


def test_pillow_is_optional(tmp_path, monkeypatch):
    path = put(tmp_path / "x.png")
    load = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "PIL":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RuntimeUnavailableError, match=r"pip install 'dwindle\[images\]'"):
        one(path)


def test_one_folder_is_split_by_class_and_always_the_same(tmp_path):
    splits = load_image_folder(fill(tmp_path / "pets"), form=BYTES)
    assert splits.name == "pets"
    assert splits.class_names == ("cat", "dog")
    parts = (splits.train, splits.validation, splits.test)
    assert [part.tensors[1].bincount().tolist() for part in parts] == [[7, 7], [1, 1], [2, 2]]
    images = torch.cat([part.tensors[0] for part in parts])
    labels = torch.cat([part.tensors[1] for part in parts])
    assert torch.equal(images[:, 0, 0, 0].long(), labels * 100)
    assert sorted(images[labels == 1][:, 1, 0, 0].tolist()) == list(range(10))
    again = load_image_folder(tmp_path / "pets", form=BYTES)
    assert torch.equal(again.test.tensors[0], splits.test.tensors[0])
    other = load_image_folder(tmp_path / "pets", form=BYTES, seed=1)
    assert not torch.equal(other.test.tensors[0], splits.test.tensors[0])


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_folders_that_are_split_already(tmp_path, name):
    for part, n in (("train", 4), (name, 2), ("test", 3)):
        fill(tmp_path / part, n=n)
    splits = load_image_folder(tmp_path, form=BYTES)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [8, 4, 6]


def test_without_a_validation_folder_a_tenth_of_training_validates(tmp_path):
    fill(tmp_path / "train", n=20)
    fill(tmp_path / "test", n=3)
    splits = load_image_folder(tmp_path, form=BYTES, max_per_class=10)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [18, 2, 6]


def test_training_without_test(tmp_path):
    fill(tmp_path / "train")
    with pytest.raises(DataError, match="holds train but no test"):
        load_image_folder(tmp_path)


def test_classes_that_differ_are_named(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", classes=("cat", "cow"))
    with pytest.raises(DataError, match="training and test classes differ by cow, dog"):
        load_image_folder(tmp_path)


def test_more_than_the_limit_is_refused_before_decoding(tmp_path):
    (fill(tmp_path) / "cat" / "0.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"20 images of 224 x 224 take 0\.0 GiB, more than the limit .*max_per_class"):
        load_image_folder(tmp_path, form=ImageForm(max_bytes=20 * 3 * 224 * 224 * 4 - 1))
    assert ImageForm(size=10).n_bytes(7) == 4 * ImageForm(size=10, keep_bytes=True).n_bytes(7) == 8400


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 0}, "size must be at least 1 pixel, got 0"),
        ({"size": (4, -1)}, "size must be at least 1"),
        ({"n_channels": 2}, "n_channels must be 1"),
        ({"mean": (0.5,)}, "as many numbers in mean and std"),
        ({"n_channels": 1, "mean": (0.5, 0.5), "std": (1.0, 1.0)}, "1 channels need as many"),
        ({"mean": (0.5,), "std": (0.5,)}, "3 channels need as many"),
        ({"std": (1.0, 0.0, 1.0)}, "mean must be finite and std positive"),
        ({"mean": (float("nan"), 0.5, 0.5)}, "mean must be finite"),
    ],
)
def test_forms_that_cannot_be(settings, words):
    with pytest.raises(SettingError, match=words):
        ImageForm(**settings)


def test_histology_tiles(tmp_path, nowhere, monkeypatch):
    folder = tmp_path / "nct-crc-he"
    for name in CLASS_NAMES:
        for number in range(10):
            put(folder / "NCT-CRC-HE-100K" / name / f"{name}-{number}.tif", size=(224, 224))
        put(folder / "CRC-VAL-HE-7K" / name / f"{name}-TCGA.tif", size=(224, 224))
    monkeypatch.setenv("DWINDLE_DATA", str(tmp_path))
    splits = load_nct_crc_he()
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [81, 9, 9]
    assert splits.train.tensors[0].shape[1:] == (3, 64, 64)
    assert splits.class_names[-1] == "TUM"
    (folder / "CRC-VAL-HE-7K").rename(folder / "other")
    with pytest.raises(DataError, match="lacks the folder CRC-VAL-HE-7K"):
        load_nct_crc_he()
    monkeypatch.delenv("DWINDLE_DATA")
    with pytest.raises(DataError, match=r"is not downloaded; unpack NCT-CRC-HE-100K\.zip"):
        load_nct_crc_he()
