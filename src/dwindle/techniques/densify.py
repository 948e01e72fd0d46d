"""This file forgets structure on purpose: weights keep their values, but no longer know zeros, codebooks or codes."""

from __future__ import annotations

from dataclasses import dataclass, field

from dwindle.core.encoding import Dense, decode
from dwindle.network.compressed import CompressedModel
from dwindle.network.select import Select
from dwindle.technique import Context, Effect, Needs, Trait, recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class Densify:
    """Store weights as plain values again; the literature's "clustered, then plain quantization" rows need it.

    What follows is free to undo every zero and every shared value: put it in only to show what that costs.
    """

    select: Select = field(default_factory=Select)

    @property
    def needs(self) -> Needs:
        """Nothing but the weights."""
        return Needs.NOTHING

    @property
    def effect(self) -> Effect:
        """Forgets sparsity, clusters and integer codes of weights."""
        return Effect(removes=Trait.SPARSE | Trait.CLUSTERED | Trait.INTEGER | Trait.KERNEL)

    def apply(self, model: CompressedModel, context: Context) -> CompressedModel:
        """Return `model` with the selected weights stored densely, bit for bit the same values.

        Raises:
            SelectionError: a pattern matches nothing.
        """
        names = self.select.resolve(model.network)
        dense = {name: Dense(decode(model.encodings[name]).clone()) for name in names}
        return recorded(self, model.with_encodings(dense), context)
