"""This file finds channels that can only go together: the rows that compute one, what normalizes it, and who reads it.

A residual addition couples the convolutions on both of its sides, a depthwise convolution couples its input with its
output, a flattening gives one channel several columns. Torch-Pruning's dependency graph (Fang et al., "DepGraph:
Towards Any Structural Pruning", CVPR 2023) finds which layers are coupled; what it says is believed only after a trial:
with half of a group's channels cut out, the network must answer as it does with the same channels set to zero.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from dwindle.errors import NetworkError
from dwindle.network.batchnorm import LAYERS
from dwindle.network.capture import first_line
from dwindle.network.coupled import SEED, Group, Role, Slot, Trial
from dwindle.network.inputs import Inputs, call
from dwindle.network.opaque import opaque_recurrence
from dwindle.network.probe import probe_for
from dwindle.network.recurrent_groups import recurrent_groups
from dwindle.network.select import CONVOLUTIONS
from dwindle.network.surgery import NORMS


@dataclass(frozen=True, slots=True)
class Groups:
    """All groups of a network, and why the outputs of other layers cannot be cut (layer -> reason)."""

    groups: tuple[Group, ...]
    left: Mapping[str, str]


def find_groups(network: nn.Module, example: Inputs, *, layers: Collection[str] | None = None) -> Groups:
    """Return the groups of coupled channels of `network`, which stays as it is, for inputs like `example`.

    Args:
        network: traced and tried out on random inputs in eval mode.
        example: one input batch; the random inputs have its scale.
        layers: where given, groups that cut the outputs of any other layer are left out; layers outside get no reason.

    Raises:
        NetworkError: the network does not run on the example, does not answer it with finite numbers, or cannot be
            traced.
    """
    network = copy.deepcopy(network).cpu().eval().requires_grad_(requires_grad=True)
    probe = probe_for(network, example, seed=SEED)
    trial = Trial(network, probe)
    groups: list[Group] = []
    taken: set[tuple[str, int, int]] = set()
    recurrent, left = recurrent_groups(network, probe, layers=layers)
    for together in recurrent:
        if reason := trial.why_not(*together):
            left[together[0].together] = reason
        else:
            groups.extend(together)
            taken.update(*map(_places, together))
    for name, found in _coupled(network, probe, layers, is_needed=not groups):
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


def _coupled(
    network: nn.Module, probe: Inputs, layers: Collection[str] | None, *, is_needed: bool
) -> Iterator[tuple[str, Group | str]]:
    """Yield every convolution and linear layer with its group, or why it has none.

    A trace that fails is an error only if it `is_needed`: recurrent layers do not depend on it.
    """
    if not any(isinstance(module, LAYERS) for module in network.modules()):
        return
    try:
        trace = _Trace.of(network, probe)
    except NetworkError as error:
        if is_needed:
            raise
        yield "", str(error)
        return
    yield from trace.coupled(layers)


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
                with opaque_recurrence(network) as sizes:
                    graph.build_dependency(network, probe, forward_fn=call, verbose=False, customized_pruners=sizes)
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
            is_root = isinstance(module, LAYERS) and not _is_depthwise(module)
            if name in seen or not is_root or module not in self.graph.module2node:
                continue
            found = self._group(module)
            outputs = set() if isinstance(found, str) else {weight.rpartition(".")[0] for weight in found.weights()}
            seen |= outputs
            wanted = outputs | {name} if layers is None else (outputs | {name}) & set(layers)
            if others := sorted((outputs | {name}) - wanted):
                reason = f"its channels are coupled with those of {', '.join(map(repr, others))}, not selected as well"
                yield from ((layer, reason) for layer in sorted(wanted))
            else:
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
    else:
        found = _rare_places(module, is_output=is_output)
    return tuple(place for place in found or () if getattr(module, place[0], None) is not None) if found else found


def _rare_places(module: nn.Module, *, is_output: bool) -> tuple[tuple[str, int, Role], ...] | None:
    if isinstance(module, nn.Embedding):
        return (("weight", 1, "output"),)
    if isinstance(module, nn.RNNBase):  # its own units are found by `recurrent_groups`
        return None if is_output else (("weight_ih_l0", 1, "input"), ("weight_ih_l0_reverse", 1, "input"))
    return None if list(module.parameters()) or list(module.buffers()) else ()


def _places(group: Group) -> set[tuple[str, int, int]]:
    return {(s.tensor, s.axis, i) for s in group.slots for i, channel in enumerate(s.channels) if channel >= 0}


def _shared(network: nn.Module) -> frozenset[str]:
    """Return the names of all tensors that have more than one."""
    names: dict[int, list[str]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return frozenset(name for several in names.values() if len(several) > 1 for name in several)
