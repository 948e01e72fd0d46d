"""This file tests that the page on data names loaders that are there, with the splits that they return."""

from __future__ import annotations

import importlib
import inspect
import re

import pytest


def test_the_loaders_of_the_page_are_there(repository):
    rows = re.findall(
        r"^\| `(dwindle\.data\.\w+)\.(\w+)\((.*?)\)` \|", (repository / "docs/data.md").read_text(), re.MULTILINE
    )
    assert len(rows) == 8
    for module, function, arguments in rows:
        signature = inspect.signature(getattr(importlib.import_module(module), function))
        names = [argument.split("=")[0].strip() for argument in arguments.split(",") if argument.strip(" .")]
        assert names == list(signature.parameters)[: len(names)]
        assert signature.return_annotation == "Splits"


@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_of_the_page_run(repository, real, number):
    example = re.findall(r"^```python\n(.*?)^```", (repository / "docs/data.md").read_text(), re.DOTALL | re.MULTILINE)[
        number
    ]
    names = {}
    real(lambda: exec(example, names))
    if number == 0:
        assert tuple(names["splits"].train.tensors[0].shape) == (5962, 9, 128)
    else:
        assert len(names["predic"].steps) == 3
