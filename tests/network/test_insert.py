"""This file tests modules put into captured graphs: who reads them, and under which names they stand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dwindle.network.activations import ActivationQuantizer, CallSite, DynamicQuantizer, LevelQuantizer
from dwindle.network.capture import capture
from dwindle.network.compressed import CompressedModel
from dwindle.network.insert import insert_before, insert_behind
from dwindle.network.simulate import simulate


class Twice(nn.Module):
    """A factor of two."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Shared(nn.Module):
    """One value that two layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x)
        return self.a(x) + self.b(x)


def test_behind_a_value_all_readers_see_it_and_before_a_layer_only_that_one():
    network, x = Shared().eval(), torch.randn(4, 3)
    h = torch.tanh(x)
    for is_behind, wanted in ((True, network.a(2 * h) + network.b(2 * h)), (False, network.a(2 * h) + network.b(h))):
        graph, sites = capture(network, x).module()
        nodes = {sites[node.name]: node for node in graph.graph.nodes if node.name in sites}
        if is_behind:
            insert_behind(graph, nodes[CallSite("", 0)], Twice(), name="twice")
        else:
            insert_before(graph, nodes[CallSite("a", 0)], Twice(), name="twice")
        graph.recompile()
        torch.testing.assert_close(graph(x), wanted)


def test_modules_of_the_network_keep_their_names():
    network = nn.Sequential()
    for name in ("quantize_linear", "quantize_input_of_linear_1", "quantize_input_of_linear_2"):
        network.add_module(name, nn.Linear(3, 3))
    x = torch.randn(4, 3)
    sites = [CallSite(name, 0) for name in dict(network.named_children())]
    quantizers = (ActivationQuantizer(scale=0.01, zero_point=128), DynamicQuantizer(), LevelQuantizer(n_bits=4))
    dense = CompressedModel.dense(network.eval())
    model = CompressedModel(
        network=dense.network,
        encodings=dense.encodings,
        n_dense_weights=0,
        activations=dict(zip(sites, quantizers, strict=True)),
    )
    with torch.no_grad():
        torch.testing.assert_close(simulate(model, x)(x), network(x), atol=0.3, rtol=0)
