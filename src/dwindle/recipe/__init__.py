"""A recipe: techniques in order; checked at no cost, run with a cache of its stages, replayed from its record."""

from dwindle.recipe.catalogue import TECHNIQUES
from dwindle.recipe.recipe import Recipe, Stage

__all__ = ["TECHNIQUES", "Recipe", "Stage"]
