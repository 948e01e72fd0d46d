"""This file builds the recipe of the dense baseline: the training of a recipe without its compression."""

from __future__ import annotations

from typing import Protocol, cast

from dwindle.recipe import Recipe
from dwindle.recipe.named import student_of
from dwindle.technique import Technique, epochs_of
from dwindle.techniques.fine_tune import FineTune


class _Training(Technique, Protocol):
    @property
    def learning_rate(self) -> float | None: ...


def control_recipe(recipe: Recipe) -> Recipe:
    """Return as much training as `recipe` contains, step for step, and nothing else.

    A network that trained for more epochs is usually better; without this the compressed network would be compared
    with a dense one that had less training. A recipe that exchanges the network for a student trains another one than
    the dense network, which is then compared with as it was given: nothing is returned. A step that only looks at
    training data, to rank channels by the loss, trains nothing.
    """
    if any(student_of(step) is not None for step in recipe.steps):
        return Recipe(())
    training = [cast("_Training", step) for step in recipe.steps if epochs_of(step) > 0]
    return Recipe(tuple(FineTune(epochs=epochs_of(t), learning_rate=t.learning_rate) for t in training))
