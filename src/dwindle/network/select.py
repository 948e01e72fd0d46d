"""This file says which weights a technique takes: name globs, else module types, else the default; minus exclusions."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from torch import nn

from dwindle.errors import SelectionError
from dwindle.network.significance.significance import Significance

CONVOLUTIONS: Final = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
MATMUL_TYPES: Final = (
    *CONVOLUTIONS, nn.Linear, nn.Bilinear, nn.Embedding, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Select:
    """Which weights: `names` (globs of parameter names), else `types` (module class names), else the default.

    The default is every floating-point parameter of two or more axes in a convolution, linear, embedding, attention or
    recurrent layer. `exclude` (globs) is taken away from any of them. A pattern that matches nothing is an error.

    `significance` takes those of them that matter, or those that do not. That needs data: a recipe looks at the network
    as it was given to it, right before the step, and replaces the choice by names; so two steps that choose the two
    sides of one `Significance` share out the layers.
    """

    names: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    significance: Significance | None = None

    def __repr__(self) -> str:
        """Return it as it is written; checkpoints of before there was a significance are named by this text."""
        later = "" if self.significance is None else f", significance={self.significance!r}"
        return f"Select(names={self.names!r}, types={self.types!r}, exclude={self.exclude!r}{later})"

    def resolve(self, network: nn.Module) -> tuple[str, ...]:
        """Return the names of the selected parameters in the network's order; a tied weight appears once.

        Raises:
            SelectionError: a pattern matches nothing, or nothing is left, or layers are chosen by significance, which
                names alone cannot tell.
        """
        if self.significance is not None:
            raise SelectionError(
                "layers are chosen by their significance, which only data can tell: run the step in a Recipe, which "
                "looks at them, or name the layers"
            )
        return self.pool(network)

    def pool(self, network: nn.Module) -> tuple[str, ...]:
        """Return what `resolve` does, whatever the significance: the layers to choose from.

        Raises:
            SelectionError: a pattern matches nothing, or nothing is left.
        """
        candidates = weight_names(network)
        if self.names:
            pool = tuple(name for name, _ in network.named_parameters())
            chosen = _match(self.names, pool, pool)
        elif self.types:
            by_type = {name: _owner_type(network, name) for name in candidates}
            missing = [t for t in self.types if t not in by_type.values()]
            if missing:
                raise _unmatched("type", missing[0], sorted(set(by_type.values())))
            chosen = tuple(name for name in candidates if by_type[name] in self.types)
        else:
            chosen = candidates
        excluded = set(_match(self.exclude, chosen, chosen))
        kept = tuple(name for name in chosen if name not in excluded)
        if not kept:
            raise SelectionError(
                f"{self} selects no weight of a network with {len(candidates)} weight tensors: {list(candidates)[:5]}"
            )
        return kept


def weight_names(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the weights that `Select()` stands for, in the network's order, each tied weight once."""
    wanted = {
        id(parameter)
        for module in network.modules()
        if isinstance(module, MATMUL_TYPES)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim >= 2 and parameter.is_floating_point()
    }
    return tuple(name for name, parameter in network.named_parameters() if id(parameter) in wanted)


def _match(patterns: tuple[str, ...], pool: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in pool):
            raise _unmatched("pattern", pattern, list(known))
    return tuple(name for name in pool if any(fnmatchcase(name, pattern) for pattern in patterns))


def _unmatched(kind: str, pattern: str, known: list[str]) -> SelectionError:
    nearest = difflib.get_close_matches(pattern, known, n=3, cutoff=0.0)
    return SelectionError(f"{kind} {pattern!r} matches no weight; the nearest names are {nearest}")


def _owner_type(network: nn.Module, name: str) -> str:
    return type(network.get_submodule(name.rpartition(".")[0])).__name__
