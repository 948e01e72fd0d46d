"""This file holds groups of coupled channels, and their law: cut out, they leave the answers that zeros leave."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Final, Literal

import torch
from torch import Tensor, nn

from dwindle.core.encoding import Dense, decode
from dwindle.core.slicing import cut
from dwindle.network.capture import first_line
from dwindle.network.inputs import Inputs, call, tensors_in
from dwindle.network.surgery import Cut, merged, reshape

Role = Literal["output", "bias", "norm", "statistic", "input"]
"""What a tensor does with a channel: compute, shift or scale it, hold its statistics, read it."""

_TOLERANCE: Final = 1e-4
SEED: Final = 0
"""Of the channels and inputs that a trial takes."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a group's channels lie in one tensor.

    Attributes:
        tensor: its name.
        axis: along which they lie.
        channels: the channel of each index along the axis; -1 for an index of none.
        role: what the tensor does with them.
    """

    tensor: str
    axis: int
    channels: tuple[int, ...]
    role: Role

    def indices(self, channels: Iterable[int]) -> tuple[int, ...]:
        """Return the indices along the axis that belong to `channels`."""
        wanted = set(channels)
        return tuple(index for index, channel in enumerate(self.channels) if channel in wanted)


@dataclass(frozen=True, slots=True)
class Group:
    """Coupled channels: channel c is everything that `slots` assign to c, and goes as a whole or not at all.

    Attributes:
        name: the layer whose outputs count the channels, of a recurrent one with the ending of its weights.
        n_channels: how many there are.
        slots: where they lie.
        together: groups that say the same here keep equally many channels, each its own: parts of one module.
    """

    name: str
    n_channels: int
    slots: tuple[Slot, ...]
    together: str = ""

    def cuts(self, channels: Iterable[int]) -> tuple[Cut, ...]:
        """Return what goes out of which tensor when `channels` go."""
        gone = tuple(channels)
        found = (Cut(slot.tensor, slot.axis, slot.indices(gone)) for slot in self.slots)
        return tuple(one for one in found if one.indices)

    def weights(self) -> tuple[str, ...]:
        """Return the names of the weights that compute the channels."""
        return tuple(slot.tensor for slot in self.slots if slot.role == "output")


def masked(network: nn.Module, group: Group, channels: Sequence[int]) -> nn.Module:
    """Return a copy of `network` in which `channels` of `group` are zero wherever they are computed, shifted or read.

    It answers like the network without them: that is the law of every group.
    """
    network = copy.deepcopy(network)
    tensors = network.state_dict(keep_vars=True)
    with torch.no_grad():
        for slot in group.slots:
            if slot.role != "statistic":
                tensors[slot.tensor].index_fill_(slot.axis, torch.tensor(slot.indices(channels), dtype=torch.int64), 0)
    return network


def shrunk(network: nn.Module, group: Group, channels: Sequence[int]) -> nn.Module:
    """Return a copy of `network` without `channels` of `group`."""
    return _without(network, group.cuts(channels))


def _without(network: nn.Module, cuts: Iterable[Cut]) -> nn.Module:
    """Return a copy of `network` without what `cuts` name; indices count as in `network`, whatever else is cut."""
    network = copy.deepcopy(network)
    held, cuts = network.state_dict(), merged(cuts)
    values = {one.tensor: held[one.tensor].clone() for one in cuts}
    for one in cuts:
        values[one.tensor] = decode(cut(Dense(values[one.tensor]), one.axis, one.indices))
    reshape(network, {name: tuple(tensor.shape) for name, tensor in values.items()})
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name in values:
                tensor.copy_(values[name])
    return network


@dataclass(frozen=True, slots=True)
class Trial:
    """Tries the law of a group on half of its channels.

    Attributes:
        network: in eval mode.
        probe: inputs that it answers.
    """

    network: nn.Module
    probe: Inputs

    def why_not(self, *groups: Group) -> str:
        """Return why `groups`, which go together, cannot be cut; empty if they can."""
        if min(group.n_channels for group in groups) < 2:
            return "it has one channel"
        generator = torch.Generator().manual_seed(SEED)
        zeroed, cuts = self.network, list[Cut]()
        with torch.no_grad():
            for group in groups:
                order = torch.randperm(group.n_channels, generator=generator).tolist()
                channels = sorted(order[: group.n_channels // 2])
                zeroed = masked(zeroed, group, channels)
                cuts.extend(group.cuts(channels))
            try:
                wanted = tensors_in(call(zeroed, self.probe))
                small = tensors_in(call(_without(self.network, cuts), self.probe))
            except Exception as error:  # ruff: ignore[blind-except] (any code may raise here, and the reason is told)
                return f"the network does not run with fewer of its channels: {first_line(error)}"
        if [one.shape for one in small] != [one.shape for one in wanted]:
            return "its channels are outputs of the network"
        if any(bool(one.isnan().any()) for one in wanted):
            return "with zeros in their place the network answers NaN, with which nothing can be compared"
        if not all(starmap(_are_close, zip(wanted, small, strict=True))):
            return (
                "without them the network answers otherwise than with zeros, as where channels are normalized together"
            )
        return ""


def _are_close(wanted: Tensor, answer: Tensor) -> bool:
    """Tell whether two answers are the same but for rounding; infinite numbers must be the same, NaN never is."""
    a, b = wanted.double(), answer.double()
    finite = a[a.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE * scale + 1e-12)
