"""This file tests what a user may choose about a file, and the arithmetic of preprocessing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from dwindle.errors import SettingError
from dwindle.exporters.options import OLDEST_IR, OPSETS, ExportOptions
from dwindle.exporters.preprocessing import Preprocessing
from dwindle.settings import from_plain, to_plain

WRONG = [
    ({"opset": 14}, r"opset must be in \[15, 21\], got 14"),
    ({"opset": 22}, "got 22"),
    ({"ir_version": 9}, r"opset 21 needs an ir_version in \[10, 13\], got 9; choose an older opset"),
    ({"ir_version": 99}, "got 99"),
    ({"batch_size": 0}, "batch_size must be 1 to 2,147,483,647, or None for any, got 0"),
    ({"batch_size": 10**20}, "batch_size must be 1 to 2,147,483,647, or None for any, got 1"),
    ({"float_type": "bfloat16"}, "float_type must be float32 or float16, got 'bfloat16'"),
    ({"class_names": "abc"}, "class_names must be a tuple of texts"),
    ({"class_names": ("a", 1)}, "class_names must be a tuple of texts"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_what_cannot_work_is_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        ExportOptions(**settings)


def test_the_oldest_formats_are_those_of_onnx():
    for opset in OPSETS:
        assert helper.find_min_ir_version_for([helper.make_opsetid("", opset)]) == OLDEST_IR[opset]


def test_options_survive_plain_values():
    options = ExportOptions(opset=17, batch_size=2, preprocessing=Preprocessing(is_uint8=True), class_names=("a", "b"))
    assert from_plain(ExportOptions, to_plain(options), where="output") == options
    assert ExportOptions().metadata() == {}
    assert set(options.metadata()) == {"class_names", "preprocessing"}


CHANNELS = st.lists(st.floats(-2, 2, width=32), min_size=3, max_size=3).map(tuple)
SPREADS = st.lists(st.floats(0.125, 2, width=32), min_size=3, max_size=3).map(tuple)


@given(CHANNELS, SPREADS, st.booleans(), st.integers(0, 1000))
def test_raw_is_the_nearest_input_that_becomes_ready(mean, std, channels_last, seed):
    rng = np.random.default_rng(seed)
    shape = (2, 4, 5, 3) if channels_last else (2, 3, 4, 5)
    image = rng.integers(0, 256, shape).astype(np.uint8)
    preprocessing = Preprocessing(scale=1 / 255, mean=mean, std=std, is_uint8=True, channels_last=channels_last)
    ready = preprocessing.apply(image)
    assert (ready.shape, ready.dtype) == ((2, 3, 4, 5), np.float32)
    np.testing.assert_array_equal(preprocessing.raw(ready), image)
    floats = Preprocessing(scale=0.5, mean=mean, std=std, channels_last=channels_last)
    np.testing.assert_allclose(floats.apply(floats.raw(ready)), ready, atol=1e-4)


def test_raw_bytes_stay_bytes():
    raw = Preprocessing(is_uint8=True).raw(np.array([[-7.0, 3.4, 900.0]]))
    assert raw.tolist() == [[0, 3, 255]]
