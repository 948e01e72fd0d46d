"""This file merges batch norms into the layers before them, as a step of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from dwindle.errors import RecipeError
from dwindle.network.batchnorm import fold_batchnorms, plan_folds
from dwindle.network.capture import capture
from dwindle.network.compressed import CompressedModel
from dwindle.technique import RANGES_WOULD_NOT_FIT, Context, Effect, Needs, Trait, recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldBatchNorm:
    """Merge every batch norm that directly follows a convolution or linear layer into that layer.

    The network answers as before in eval mode. Pruned, clustered and integer weights keep their structure. Batch norms
    that cannot be merged stay; the history says which, and why.
    """

    @property
    def needs(self) -> Needs:
        """One input batch, to capture the graph."""
        return Needs.EXAMPLE

    @property
    def effect(self) -> Effect:
        """Leaves no batch norm behind that could be merged; the ranges of quantized activations would no longer fit."""
        return Effect(
            adds=Trait.FOLDED,
            refuses={Trait.QUANTIZED_ACTIVATIONS: RANGES_WOULD_NOT_FIT},
        )

    def apply(self, model: CompressedModel, context: Context) -> CompressedModel:
        """Return `model` with its batch norms merged.

        Raises:
            RecipeError: the context has no example.
            NetworkError: the network cannot be captured, or its activations are quantized already.
        """
        if context.example is None:
            raise RecipeError("FoldBatchNorm needs an example batch to capture the network; give Context(example=...)")
        folded, edits = fold_batchnorms(model, context.example)
        left = plan_folds(folded, capture(folded.network, context.example)).left
        decisions = {"folded": {edit.batchnorm: edit.layer for edit in edits}, "left": dict(left)}
        return recorded(self, folded, context, decisions=decisions)
