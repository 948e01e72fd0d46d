"""This file puts modules into a captured graph, under names that the network itself does not use."""

from __future__ import annotations

from torch import fx, nn


def add_module(graph: fx.GraphModule, name: str, module: nn.Module) -> str:
    """Add `module` as `name`, or as the next free one, and return the name."""
    while hasattr(graph, name):
        name += "_"
    graph.add_submodule(name, module)
    return name


def insert_behind(graph: fx.GraphModule, node: fx.Node, module: nn.Module, *, name: str) -> None:
    """Let every reader of `node` read what `module` makes of it."""
    name = add_module(graph, name, module)
    anchor = node
    while node.op == "placeholder" and anchor.next.op in {"placeholder", "get_attr"}:
        anchor = anchor.next
    with graph.graph.inserting_after(anchor):
        new = graph.graph.call_module(name, (node,))
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def insert_before(graph: fx.GraphModule, layer: fx.Node, module: nn.Module, *, name: str) -> None:
    """Let `layer` alone read what `module` makes of its first input."""
    name = add_module(graph, name, module)
    with graph.graph.inserting_before(layer):
        layer.update_arg(0, graph.graph.call_module(name, (layer.args[0],)))
