"""This file trains shared weights that may change their centroid: each kept weight has a latent value beside it.

The network computes with the centroids. A latent value takes the gradient of its weight as if it were the weight
(straight through: Bengio et al. 2013, arXiv:1308.3432) and decides to which centroid the weight belongs.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from dwindle.core.assignment import nearest, without_unused
from dwindle.core.encoding import Encoding
from dwindle.errors import EncodingError
from dwindle.network.structure import Structure


class Reassigned(nn.Module):
    """A `Structure` with a codebook, and what may move its weights between the centroids.

    `latent` (n_kept,) holds the kept weights in the order of the weight's axes. It has one axis, as centroids have, so
    that both are trained without weight decay: while no weight moves, plain gradient descent with the mean of the
    gradients keeps a centroid at the mean of its latent values, where k-means put it.
    """

    positions: Tensor | None

    def __init__(self, structure: Structure, values: Tensor, *, is_trained: bool) -> None:
        """Wrap `structure`; `values`, of the weight's shape, are the latent values at the start."""
        super().__init__()
        if structure.indices is None:
            raise EncodingError("a weight without a codebook has no centroids to choose from; cluster it first")
        flat = values.detach().flatten()
        positions = None if structure.support is None else structure.support.flatten().nonzero().flatten()
        self.structure = structure
        self.register_buffer("positions", positions, persistent=False)  # of the start; a support only shrinks
        kept = flat.clone() if positions is None else flat.index_select(0, positions)
        self.latent = nn.Parameter(kept, requires_grad=is_trained)

    @property
    def support(self) -> Tensor | None:
        """Where weights are kept; None: everywhere."""
        return self.structure.support

    @property
    def indices(self) -> Tensor:
        """The centroid of each weight."""
        return cast("Tensor", self.structure.indices)

    def forward(self, centroids: Tensor) -> Tensor:
        """Map the centroids (k,) to the weight."""
        shared = self.structure.spread(centroids)
        return self.structure.scaled(cast("Tensor", _StraightThrough.apply(shared, self.latent, self.positions)))

    def restrict(self, support: Tensor) -> None:
        """Shrink the support in place."""
        self.structure.restrict(support)

    def reassign(self, centroids: Tensor) -> None:
        """Move each kept weight to the centroid nearest to its latent value; ties go to the lower centroid.

        A centroid that is left without weights stays where it is, and takes weights that come near it again.
        """
        moved = nearest(self.latent, centroids).to(self.indices.dtype)
        if self.positions is not None:
            moved = self.indices.flatten().index_copy(0, self.positions, moved)
        moved = moved.reshape(self.indices.shape)
        if not torch.equal(moved, self.indices):
            self.indices.copy_(moved)

    def encode(self, centroids: Tensor) -> Encoding:
        """Return the encoding of which `forward(centroids)` is the decoded tensor, without unused centroids."""
        return without_unused(self.structure.encode(centroids))


class _StraightThrough(torch.autograd.Function):
    """The weight as it is; its gradient goes on to the latent values, too."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        ctx, weight, _, positions = arguments
        ctx.positions = positions
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        flat = grad_outputs[0].flatten()  # in the order of the axes, whatever the order in memory
        return grad_outputs[0], flat if ctx.positions is None else flat.index_select(0, ctx.positions), None
