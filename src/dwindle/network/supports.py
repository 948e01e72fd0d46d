"""This file chooses which weights of a network stay, each tensor by itself or all of them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from dwindle.core.encoding import Encoding, decode, support_of
from dwindle.core.schedule import next_sparsity
from dwindle.core.sparsity import (
    NOfM,
    find_std_multiplier,
    global_magnitude_supports,
    lamp_supports,
    magnitude_support,
    n_of_m_support,
    n_pruned,
    std_support,
)
from dwindle.errors import SettingError

Supports = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Weights of which some will go.

    Attributes:
        values: floats by name.
        within: earlier supports by name, one for each of `values`.
        transposed: name -> groups, of the weights whose first axis is the inputs: those of transposed convolutions.
    """

    values: Mapping[str, Tensor]
    within: Supports
    transposed: Mapping[str, int]

    @classmethod
    def of(cls, network: nn.Module, encodings: Mapping[str, Encoding]) -> Self:
        """Return the weights of `network` that `encodings` stand for."""
        values = {name: decode(encoding) for name, encoding in encodings.items()}
        within = {name: support_or_all(encoding) for name, encoding in encodings.items()}
        return cls(values=values, within=within, transposed=transposed_weights(network))

    def by_layer(self, sparsity: float | Mapping[str, float], *, n_rounds: int = 1) -> Supports:
        """Return supports that drop the smallest magnitudes of each tensor.

        Args:
            sparsity: share of a tensor's weights that is zero in the end; of all tensors, or of each by its name.
            n_rounds: prunings still to come, this one among them; each takes the same share of what is left.
        """
        target = dict.fromkeys(self.values, sparsity) if isinstance(sparsity, float | int) else sparsity
        return {
            name: magnitude_support(values, self._next(target[name], n_rounds, within), within=within)
            for (name, values), within in zip(
                self.values.items(), map(self.within.__getitem__, self.values), strict=True
            )
        }

    def globally(self, sparsity: float, *, n_rounds: int = 1) -> Supports:
        """Return supports that drop the smallest magnitudes of all tensors together; arguments as in `by_layer`."""
        reached = self._next(sparsity, n_rounds, *self.within.values())
        return global_magnitude_supports(self.values, reached, within=self.within)

    def by_lamp(self, sparsity: float, *, n_rounds: int = 1) -> Supports:
        """Return supports that drop the lowest LAMP scores of all tensors together; arguments as in `by_layer`."""
        return lamp_supports(self.values, self._next(sparsity, n_rounds, *self.within.values()), within=self.within)

    def by_pattern(self, pattern: NOfM, sparsity: float, *, n_rounds: int = 1) -> Supports:
        """Return supports that keep as many of every `pattern.m` weights as `sparsity` leaves; as in `by_layer`."""
        return {
            name: self._by_pattern(name, pattern, self._next(sparsity, n_rounds, self.within[name]))
            for name in self.values
        }

    def by_std(self, std_multiplier: float) -> Supports:
        """Return supports that keep what reaches `std_multiplier` times the standard deviation of its tensor."""
        return {name: std_support(v, std_multiplier, within=self.within[name]) for name, v in self.values.items()}

    def std_multiplier(self, sparsity: float, *, n_rounds: int = 1) -> float:
        """Return the one for which `by_std` reaches `sparsity` over all tensors; arguments as in `by_layer`."""
        return find_std_multiplier(self.values, self._next(sparsity, n_rounds, *self.within.values()))

    def _by_pattern(self, name: str, pattern: NOfM, sparsity: float) -> Tensor:
        n = pattern.m - n_pruned(pattern.m, sparsity)
        values, within = self.values[name], self.within[name]
        try:
            if name not in self.transposed:
                return n_of_m_support(values, n, pattern.m, within=within)
            n_groups = self.transposed[name]
            turned = (_turned(tensor, n_groups) for tensor in (values, within))
            return _turned(n_of_m_support(next(turned), n, pattern.m, within=next(turned)), n_groups).contiguous()
        except SettingError as error:
            raise SettingError(f"{name!r}: {error}") from error

    def _next(self, sparsity: float, n_rounds: int, *within: Tensor) -> float:
        n_weights = sum(support.numel() for support in within)
        return next_sparsity(
            fraction_lost(n_weights, sum(int(support.sum()) for support in within)), target=sparsity, n_rounds=n_rounds
        )


def transposed_weights(network: nn.Module) -> Mapping[str, int]:
    """Return the weights of transposed convolutions, (in, out / groups, *kernel), with their groups."""
    groups: dict[int, int] = {}
    for module in network.modules():
        if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            groups[id(module.weight)] = module.groups
    return {name: groups[id(weight)] for name, weight in network.named_parameters() if id(weight) in groups}


def support_or_all(encoding: Encoding) -> Tensor:
    """Return the support that `encoding` carries; all True where nothing was pruned."""
    return everything_or(support_of(encoding), decode(encoding))


def everything_or(support: Tensor | None, values: Tensor) -> Tensor:
    """Return `support` on the processor; all True in the shape of `values` where there is none."""
    return torch.ones_like(values, dtype=torch.bool, device="cpu") if support is None else support.cpu()


def describe_supports(encodings: Mapping[str, Encoding]) -> dict[str, Any]:
    """Return sparsity and threshold (the smallest magnitude that stayed) of each tensor, and the sparsity of all."""
    tensors: dict[str, Any] = {}
    n_weights = n_kept = 0
    for name, encoding in encodings.items():
        support = support_or_all(encoding)
        kept = decode(encoding)[support]
        n_weights, n_kept = n_weights + support.numel(), n_kept + kept.numel()
        threshold = float(kept.abs().min()) if kept.numel() else None
        tensors[name] = {"sparsity": fraction_lost(support.numel(), kept.numel()), "threshold": threshold}
    return {"tensors": tensors, "sparsity": fraction_lost(n_weights, n_kept)}


def fraction_lost(n_weights: int, n_kept: int) -> float:
    """Return the share of weights that did not stay; 0 of none."""
    return 1 - n_kept / n_weights if n_weights else 0.0


def _turned(weight: Tensor, n_groups: int) -> Tensor:
    """Return (in, out / groups, *kernel) as (out, in / groups, *kernel); its own inverse."""
    split = weight.reshape(n_groups, len(weight) // n_groups, *weight.shape[1:])
    return split.transpose(1, 2).flatten(0, 1)
