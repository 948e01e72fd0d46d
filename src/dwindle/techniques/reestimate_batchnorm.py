"""This file computes the running statistics of batch norms anew, for weights that changed after they were collected."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from dwindle.core.encoding import Dense, Encoding
from dwindle.errors import DataError, NetworkError, RecipeError
from dwindle.network.compressed import CompressedModel
from dwindle.network.inputs import Inputs, call, describe
from dwindle.network.observe import check_batches
from dwindle.technique import RANGES_WOULD_NOT_FIT, Context, Effect, Needs, Trait, recorded

BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReestimateBatchNorm:
    """Set each batch norm's running mean and variance to the average over the calibration batches.

    Every other layer runs in eval mode, so that nothing but these statistics changes. A batch norm sees its input as
    the batch norms before it make it with the statistics of the batch, as in training.
    """

    @property
    def needs(self) -> Needs:
        """Input batches."""
        return Needs.EXAMPLE | Needs.CALIBRATION

    @property
    def effect(self) -> Effect:
        """Changes what a folded batch norm or a measured range was computed from, so it comes before both."""
        return Effect(
            refuses={
                Trait.FOLDED: "folded batch norms have no statistics",
                Trait.QUANTIZED_ACTIVATIONS: RANGES_WOULD_NOT_FIT,
            },
        )

    def apply(self, model: CompressedModel, context: Context) -> CompressedModel:
        """Return `model` with new running statistics.

        Raises:
            RecipeError: the context lacks an example or calibration data.
            NetworkError: the network has no batch norm with running statistics.
            DataError: the calibration data is empty or no batch of inputs.
        """
        if context.example is None or context.calibration is None:
            raise RecipeError("ReestimateBatchNorm needs Context(example=..., calibration=...): batches of inputs")
        network = copy.deepcopy(model.network)
        norms = {name: m for name, m in network.named_modules() if isinstance(m, BATCHNORMS) and m.track_running_stats}
        if not norms:
            raise NetworkError(
                f"ReestimateBatchNorm: {type(network).__name__} has no batch norm with running statistics (were they "
                "folded?); leave this step out, or put it before the one that folds"
            )
        n_batches = _collect(network, list(norms.values()), check_batches(context.calibration, context.example))
        tensors = network.state_dict()
        changed: dict[str, Encoding] = {
            name: Dense(tensors[name].detach().clone())
            for norm in norms
            for name in (f"{norm}.running_mean", f"{norm}.running_var", f"{norm}.num_batches_tracked")
            if name in model.encodings
        }
        decisions = {"batchnorms": list(norms), "n_batches": n_batches}
        return recorded(self, model.with_encodings(changed), context, decisions=decisions)


def _collect(network: nn.Module, norms: list[nn.Module], batches: Iterable[Inputs]) -> int:
    """Average the statistics of `batches` into `norms` in place, all else in eval mode; return how many there were."""
    network.eval()
    for norm in norms:
        norm.train()
        norm.get_buffer("num_batches_tracked").zero_()
        setattr(norm, "momentum", None)  # ruff: ignore[set-attr-with-constant] (None: the average over all batches)
    n_batches = 0
    with torch.no_grad():
        for batch in batches:
            try:
                call(network, batch)
            except ValueError as error:
                raise DataError(f"calibration batch {n_batches}, {describe(batch)}: {error}") from error
            n_batches += 1
    return n_batches
