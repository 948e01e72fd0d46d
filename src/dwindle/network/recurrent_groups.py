"""This file finds the hidden units of recurrent layers: what computes a unit, and whoever reads it.

Unit j of a layer and direction is row j of each gate (four of an LSTM, three of a GRU, one of an RNN) in both weights
and both biases, and column j of the recurrent weight. Who reads it further on, the next layer in both directions or
whatever follows, is found by following it through the captured graph. A unit whose rows are zero stays at zero, because
its cell input tanh(0) is zero; so units that are cut out must leave the same answers as units set to zero.

Torch's recurrent layers have one `hidden_size` for all layers and directions: the groups of one are cut `together`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import fx, nn

from dwindle.errors import NetworkError
from dwindle.network.capture import capture
from dwindle.network.channel_flow import NONE, RECURRENT, Flow, Source, follow
from dwindle.network.coupled import Group, Role, Slot
from dwindle.network.inputs import Inputs

_WEIGHTS: Final = 2
"""Where the list of weights stands among the arguments of a recurrent call."""
_SHARED: Final = "its weights are shared with another module"
_PROJECTED: Final = "it projects its states (proj_size), so its outputs are mixtures of its units"
_CELL: Final = "the network calls it step by step in a loop of its own, through which units are not followed"
_ABSENT: Final = "the network does not call it on a whole sequence"


def recurrent_groups(
    network: nn.Module, example: Inputs, *, layers: Collection[str] | None = None
) -> tuple[list[tuple[Group, ...]], dict[str, str]]:
    """Return the groups of each recurrent layer of `network`, and why others cannot be cut (layer -> reason).

    Args:
        network: in eval mode; captured and run on the example.
        example: one input batch.
        layers: where given, only these recurrent layers.
    """
    found = {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, nn.RNNBase | nn.RNNCellBase) and (layers is None or path in layers)
    }
    left = {path: reason for path, module in found.items() if (reason := _why_not(network, module))}
    units = _Units.of({path: m for path, m in found.items() if path not in left and isinstance(m, nn.RNNBase)})
    if not units.bases:
        return [], left
    try:
        flow, called = units.followed(network, example)
    except NetworkError as error:
        return [], left | dict.fromkeys(units.bases, str(error))
    groups: list[tuple[Group, ...]] = []
    for path in units.bases:
        lost = [flow.lost[unit] for unit in units.numbers(path) if unit in flow.lost]
        if path not in called or lost:
            left[path] = lost[0] if lost else _ABSENT
        elif twice := _read_twice(flow, set(units.numbers(path))):
            left[path] = f"{twice!r} reads them in two ways"
        else:
            groups.append(tuple(units.groups(path, flow)))
    return groups, left


def _why_not(network: nn.Module, module: nn.RNNBase | nn.RNNCellBase) -> str:
    if isinstance(module, nn.RNNCellBase):
        return _CELL
    if module.proj_size:
        return _PROJECTED
    own = {id(parameter) for parameter in module.parameters()}
    places = sum(
        id(parameter) in own
        for other in network.modules()
        for _, parameter in other.named_parameters(recurse=False, remove_duplicate=False)
    )
    return _SHARED if places > len(own) else ""


@dataclass(frozen=True, slots=True, eq=False)
class _Units:
    """Numbers for all units of recurrent layers: those of a layer's directions, then those of its next layer."""

    modules: Mapping[str, nn.RNNBase]
    bases: Mapping[str, int]
    n_units: int

    @classmethod
    def of(cls, modules: Mapping[str, nn.RNNBase]) -> _Units:
        bases: dict[str, int] = {}
        n_units = 0
        for path, module in modules.items():
            bases[path] = n_units
            n_units += len(_directions(module)) * module.hidden_size
        return cls(modules, bases, n_units)

    def numbers(self, path: str) -> range:
        """Return all numbers of one module."""
        module = self.modules[path]
        return range(self.bases[path], self.bases[path] + len(_directions(module)) * module.hidden_size)

    def followed(self, network: nn.Module, example: Inputs) -> tuple[Flow, frozenset[str]]:
        """Return where all units are read, and which modules are called on sequences."""
        graph, _ = capture(network, example, any_batch=False).module()
        names: dict[str, str] = {}
        first: dict[int, str] = {}
        for name, tensor in network.state_dict(keep_vars=True).items():
            names[name] = first.setdefault(id(tensor), name)
        sources = dict(self._sources(graph, names))
        nodes = {node: source for node, (_, source) in sources.items()}
        flow = follow(graph, example, nodes, names=names, n_channels=self.n_units)
        return flow, frozenset(path for path, _ in sources.values())

    def _sources(self, graph: fx.GraphModule, names: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, Source]]]:
        owners = {f"{path}.weight_ih_l0" if path else "weight_ih_l0": path for path in self.modules}
        for node in graph.graph.nodes:
            if str(node.target) in RECURRENT:
                weights: Any = node.args[_WEIGHTS]
                path = owners.get(names.get(str(weights[0].target), ""))
                if path is not None:
                    yield node.name, (path, self._source(path))

    def _source(self, path: str) -> Source:
        module = self.modules[path]
        rows = [self._row(path, place) for place in range(len(_directions(module)))]
        n_directions = 2 if module.bidirectional else 1
        last = tuple(unit for row in rows[-n_directions:] for unit in row)
        states = (tuple(rows),) * (2 if isinstance(module, nn.LSTM) else 1)
        return ((last,), *states)

    def _row(self, path: str, place: int) -> tuple[int, ...]:
        size = self.modules[path].hidden_size
        start = self.bases[path] + place * size
        return tuple(range(start, start + size))

    def groups(self, path: str, flow: Flow) -> Iterator[Group]:
        """Yield the groups of one module: one for each of its layers and directions."""
        module = self.modules[path]
        for place, ending in enumerate(_directions(module)):
            row = self._row(path, place)
            slots = [*_own_slots(path, module, ending), *_next_slots(path, module, place)]
            read = {(r.tensor, r.axis, r.role, r.channels) for r in flow.reads if set(r.channels) & set(row)}
            for tensor, axis, role, channels in sorted(read):
                wanted = tuple(unit - row[0] if row[0] <= unit <= row[-1] else NONE for unit in channels)
                slots.append(Slot(tensor, axis, wanted, _ROLES[role]))
            yield Group(_name(path, ending), module.hidden_size, tuple(slots), together=path)


def _read_twice(flow: Flow, units: set[int]) -> str:
    """Return the name of a tensor that reads some of `units` by several calls, with other units at its indices."""
    seen: dict[tuple[str, int], tuple[int, ...]] = {}
    for read in flow.reads:
        if units & set(read.channels) and seen.setdefault((read.tensor, read.axis), read.channels) != read.channels:
            return read.tensor
    return ""


_ROLES: Final[Mapping[str, Role]] = {"input": "input", "norm": "norm", "statistic": "statistic"}


def _directions(module: nn.RNNBase) -> list[str]:
    """Return how the names of the weights of each layer and direction end."""
    suffixes = ("", "_reverse") if module.bidirectional else ("",)
    return [f"l{layer}{suffix}" for layer in range(module.num_layers) for suffix in suffixes]


def _own_slots(path: str, module: nn.RNNBase, ending: str) -> Iterator[Slot]:
    size = module.hidden_size
    n_gates = len(getattr(module, f"weight_hh_{ending}")) // size
    rows = tuple(range(size)) * n_gates
    kinds: Sequence[tuple[str, Role]] = [("weight_ih", "output"), ("weight_hh", "output")]
    if module.bias:
        kinds = [*kinds, ("bias_ih", "bias"), ("bias_hh", "bias")]
    for kind, role in kinds:
        yield Slot(_name(path, f"{kind}_{ending}"), 0, rows, role)
    yield Slot(_name(path, f"weight_hh_{ending}"), 1, tuple(range(size)), "input")


def _next_slots(path: str, module: nn.RNNBase, place: int) -> Iterator[Slot]:
    """Yield the columns of the next layer that read a layer's units of one direction."""
    n_directions, size = (2 if module.bidirectional else 1), module.hidden_size
    layer, direction = divmod(place, n_directions)
    if layer + 1 == module.num_layers:
        return
    before, behind = (NONE,) * direction * size, (NONE,) * (n_directions - 1 - direction) * size
    for suffix in ("", "_reverse")[:n_directions]:
        yield Slot(_name(path, f"weight_ih_l{layer + 1}{suffix}"), 1, (*before, *range(size), *behind), "input")


def _name(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
