"""This file tests the public door: every name opens, and none drags heavy packages in before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dwindle as dw
from dwindle.public_names import PUBLIC_NAMES

HEAVY = (
    "optuna",
    "ray",
    "onnxruntime",
    "onnx",
    "torchvision",
    "sklearn",
    "lightning_fabric",
    "matplotlib",
    "rich",
    "typer",
)


def loaded_after(statement: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has loaded after `statement`."""
    script = f"{statement}\nimport sys; print(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_every_name_opens(name):
    value = getattr(dw, name)
    module, _, attribute = PUBLIC_NAMES[name].partition(":")
    assert getattr(value, "__name__", name) in {attribute, module, name}


def test_the_door_is_sorted_and_complete():
    assert dw.__all__ == sorted(dw.__all__)
    assert set(dw.__all__) == set(PUBLIC_NAMES)
    assert set(dw.__all__) <= set(dir(dw))


def test_an_unknown_name_is_an_attribute_error_that_lists_the_known():
    with pytest.raises(
        AttributeError, match="module 'dwindle' has no attribute 'Prune'; it has Binarize, Binary, Budget, "
    ):
        dw.Prune  # ruff: ignore[useless-expression]


def test_import_dwindle_loads_not_even_torch():
    assert not loaded_after("import dwindle") & {"torch", "numpy", *HEAVY}


def test_a_recipe_loads_torch_and_nothing_heavier():
    loaded = loaded_after(
        "import dwindle as dw; dw.Recipe((dw.PruneWeights(sparsity=0.5), dw.Cluster(), dw.QuantizeWeights()))"
    )
    assert "torch" in loaded
    assert not loaded & set(HEAVY)


def test_the_container_opens_without_torch():
    assert not loaded_after("import dwindle.container; dwindle.read") & {"torch", *HEAVY}
