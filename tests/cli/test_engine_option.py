"""This file tests the mistakes in `--engine NAME:setting=value`: each is one clear error."""

from __future__ import annotations

import pytest

from dwindle.cli.engines import engine_named
from dwindle.errors import SettingError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("onnxruntime:graph_level=--5", "'--5' is not one of"),
        ("onnxruntime:graph_level=\N{SUPERSCRIPT TWO}", "is not one of"),
        ("onnxruntime:graph_level=" + "9" * 5000, "is not one of"),
        ("onnxruntime:graph_level=-3", "-3 is not one of"),
        ("onnxruntime:graph_level=all,graph_level=none", "a setting is given twice"),
        ("onnxruntime:graph_level", "is no setting; write name=value"),
        ("torch", "needs the network"),
    ],
    ids=range(7),
)
def test_a_setting_that_does_not_fit_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        engine_named(text)
