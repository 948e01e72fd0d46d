"""This file finds channels that can only go together: the rows that compute one, what normalizes it, and who reads it.

A residual addition couples the convolutions on both of its sides, a depthwise convolution couples its input with its
output, a flattening gives one channel several columns. Torch-Pruning's dependency graph (Fang et al., "DepGraph:
Towards Any Structural Pruning", CVPR 2023) finds which layers are coupled; what it says is believed only after a trial:
with half of a group's channels cut out, the network must answer as it does with the same channels set to zero.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Any, Final, Literal, Self

import torch
from torch import Tensor, nn

from dwindle.errors import NetworkError
from dwindle.network.capture import first_line
from dwindle.network.inputs import Inputs, as_tuple, call, tensors_in
from dwindle.network.surgery import CONVOLUTIONS, NORMS, Cut, reshape

Role = Literal["output", "bias", "norm", "statistic", "input"]
"""What a tensor does with a channel: compute, shift or scale it, hold its statistics, read it."""

_TOLERANCE: Final = 1e-4
_SEED: Final = 0


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
        name: the layer whose outputs count the channels.
        n_channels: how many there are.
        slots: where they lie.
    """

    name: str
    n_channels: int
    slots: tuple[Slot, ...]

    def cuts(self, channels: Iterable[int]) -> tuple[Cut, ...]:
        """Return what goes out of which tensor when `channels` go."""
        gone = tuple(channels)
        found = (Cut(slot.tensor, slot.axis, slot.indices(gone)) for slot in self.slots)
        return tuple(one for one in found if one.indices)

    def weights(self) -> tuple[str, ...]:
        """Return the names of the weights that compute the channels."""
        return tuple(slot.tensor for slot in self.slots if slot.role == "output")


@dataclass(frozen=True, slots=True)
class Groups:
    """All groups of a network, and why the outputs of other layers cannot be cut (layer -> reason)."""

    groups: tuple[Group, ...]
    left: Mapping[str, str]


def find_groups(network: nn.Module, example: Inputs, *, layers: Collection[str] | None = None) -> Groups:
    """Return the groups of coupled channels of `network`, which stays as it is, for inputs like `example`.

    Args:
        network: traced and tried out on random inputs in eval mode.
        example: one input batch.
        layers: where given, groups that cut the outputs of any other layer are left out, without a reason.

    Raises:
        NetworkError: the network does not run on the example, or cannot be traced.
    """
    probe = _probe(example)
    network = copy.deepcopy(network).eval().requires_grad_(requires_grad=True)
    trial = _Trial(network, probe)
    groups: list[Group] = []
    left: dict[str, str] = {}
    taken: set[tuple[str, int, int]] = set()
    for name, found in _Trace.of(network, probe).coupled(layers):
        if isinstance(found, str):
            left[name] = found
        elif _places(found) & taken:
            left[name] = "its channels are coupled with those of an earlier layer"
        elif reason := trial.why_not(found):
            left[name] = reason
        else:
            groups.append(found)
            taken |= _places(found)
    return Groups(tuple(groups), left)


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
    network = copy.deepcopy(network)
    values = {slot.tensor: tensor for slot in group.slots for tensor in [network.state_dict()[slot.tensor].clone()]}
    for cut in group.cuts(channels):
        kept = sorted(set(range(values[cut.tensor].shape[cut.axis])) - set(cut.indices))
        values[cut.tensor] = values[cut.tensor].index_select(cut.axis, torch.tensor(kept, dtype=torch.int64))
    reshape(network, {name: tuple(tensor.shape) for name, tensor in values.items()})
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name in values:
                tensor.copy_(values[name])
    return network


@dataclass(frozen=True, slots=True)
class _Trace:
    """The dependency graph of a network."""

    graph: Any
    network: nn.Module
    names: Mapping[int, str]
    shared: frozenset[str]

    @classmethod
    def of(cls, network: nn.Module, probe: Inputs) -> Self:
        from torch_pruning import DependencyGraph  # pyright: ignore[reportMissingTypeStubs]

        graph: Any = DependencyGraph()
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            try:
                graph.build_dependency(network, as_tuple(probe), verbose=False)
            except Exception as error:
                raise NetworkError(
                    f"the couplings of the channels of {type(network).__name__} cannot be traced: "
                    f"{first_line(error)}; techniques that touch single weights (PruneWeights) still work"
                ) from error
        names = {id(module): name for name, module in network.named_modules()}
        return cls(graph, network, names, _shared(network))

    def coupled(self, layers: Collection[str] | None) -> Iterator[tuple[str, Group | str]]:
        """Yield every layer that computes channels with its group, or why it has none; each group once.

        Layers come in the network's order. A depthwise convolution passes channels on, it begins no group.
        """
        seen: set[str] = set()
        for name, module in self.network.named_modules():
            is_root = isinstance(module, (*CONVOLUTIONS, nn.Linear)) and not _is_depthwise(module)
            if name in seen or not is_root or module not in self.graph.module2node:
                continue
            found = self._group(module)
            outputs = set() if isinstance(found, str) else {weight.rpartition(".")[0] for weight in found.weights()}
            seen |= outputs
            if layers is None or outputs | {name} <= set(layers):
                yield name, found

    def _group(self, root: nn.Module) -> Group | str:
        pruner = self.graph.get_pruner_of_module(root)
        n_channels = int(self.graph.get_out_channels(root))
        slots: list[Slot] = []
        try:
            items = self.graph.get_pruning_group(root, pruner.prune_out_channels, [*range(n_channels)])
        except Exception as error:  # ruff: ignore[blind-except] (a graph that it does not know; the reason is told)
            return f"what its channels are coupled with cannot be followed: {first_line(error)}"
        for item in items:
            found = self._slots(item)
            if isinstance(found, str):
                return found
            slots.extend(found)
        return Group(self.names[id(root)], n_channels, tuple(slots))

    def _slots(self, item: Any) -> list[Slot] | str:
        """Return where the channels lie in the layer that `item` of a group names, or why they cannot be cut there."""
        module = item.dep.target.module
        if isinstance(module, nn.Parameter):
            return "a parameter outside of any layer is applied to its channels"
        if id(module) not in self.names:  # an operation without weights: the trial tells
            return []
        path = self.names[id(module)]
        places = _places_in(module, is_output=bool(self.graph.is_out_channel_pruning_fn(item.dep.handler)))
        if places is None:
            return f"its channels reach {path!r}, a {type(module).__name__}, which cannot be cut"
        slots: list[Slot] = []
        for attribute, axis, role in places:
            name = f"{path}.{attribute}" if path else attribute
            size = getattr(module, attribute).shape[axis]
            if name in self.shared:
                return f"{name!r} is shared by several modules"
            if max(item.idxs) >= size:
                return f"how its channels reach {path!r} cannot be followed"
            channels = [-1] * size
            for index, channel in zip(item.idxs, item.root_idxs, strict=True):
                channels[index] = channel
            slots.append(Slot(name, axis, tuple(channels), role))
        return slots


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, CONVOLUTIONS) and module.groups == module.in_channels == module.out_channels > 1


def _places_in(module: nn.Module, *, is_output: bool) -> tuple[tuple[str, int, Role], ...] | None:
    """Return where a module's channels lie (attribute, axis, role); None where that is not known."""
    found: tuple[tuple[str, int, Role], ...] | None = None
    if isinstance(module, nn.Linear):
        found = (("weight", 0, "output"), ("bias", 0, "bias")) if is_output else (("weight", 1, "input"),)
    elif isinstance(module, CONVOLUTIONS):
        outputs, inputs = (1, 0) if module.transposed else (0, 1)
        if _is_depthwise(module):
            found = (("weight", 0, "norm"), ("bias", 0, "bias"))
        elif module.groups == 1:
            found = (
                (("weight", outputs, "output"), ("bias", 0, "bias")) if is_output else (("weight", inputs, "input"),)
            )
    elif isinstance(module, NORMS):
        found = (
            ("weight", 0, "norm"), ("bias", 0, "bias"),
            ("running_mean", 0, "statistic"), ("running_var", 0, "statistic"),
        )  # fmt: skip
    elif isinstance(module, nn.PReLU):
        found = (("weight", 0, "norm"),) if module.num_parameters > 1 else ()
    elif isinstance(module, nn.Embedding):
        found = (("weight", 1, "output"),)
    else:
        return () if not list(module.parameters()) and not list(module.buffers()) else None
    return tuple(place for place in found or () if getattr(module, place[0], None) is not None) if found else found


@dataclass(frozen=True, slots=True)
class _Trial:
    """Tries the law of a group on half of its channels."""

    network: nn.Module
    probe: Inputs

    def why_not(self, group: Group) -> str:
        """Return why `group` cannot be cut; empty if it can."""
        if group.n_channels < 2:
            return "it has one channel"
        order = torch.randperm(group.n_channels, generator=torch.Generator().manual_seed(_SEED)).tolist()
        channels = sorted(order[: group.n_channels // 2])
        with torch.no_grad():
            wanted = tensors_in(call(masked(self.network, group, channels), self.probe))
            try:
                small = tensors_in(call(shrunk(self.network, group, channels), self.probe))
            except Exception as error:  # ruff: ignore[blind-except] (any code may raise here, and the reason is told)
                return f"the network does not run with fewer of its channels: {first_line(error)}"
        if [one.shape for one in small] != [one.shape for one in wanted]:
            return "its channels are outputs of the network"
        if not all(starmap(_are_close, zip(wanted, small, strict=True))):
            return (
                "without them the network answers otherwise than with zeros, as where channels are normalized together"
            )
        return ""


def _are_close(wanted: Tensor, answer: Tensor) -> bool:
    a, b = wanted.double(), answer.double()
    scale = float(a.abs().max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE * scale + 1e-12, equal_nan=True)


def _places(group: Group) -> set[tuple[str, int, int]]:
    return {(s.tensor, s.axis, i) for s in group.slots for i, channel in enumerate(s.channels) if channel >= 0}


def _shared(network: nn.Module) -> frozenset[str]:
    """Return the names of all tensors that have more than one."""
    names: dict[int, list[str]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return frozenset(name for several in names.values() if len(several) > 1 for name in several)


def _probe(example: Inputs) -> Inputs:
    """Return random inputs like the example, whose own values may be all zero; whole numbers are kept as they are."""
    generator = torch.Generator().manual_seed(_SEED)
    made = [
        torch.randn(one.shape, generator=generator, dtype=one.dtype) if one.is_floating_point() else one.clone()
        for one in as_tuple(example)
    ]
    return made[0] if isinstance(example, Tensor) else tuple(made)
