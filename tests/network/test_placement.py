from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.network.capture import capture
from dwindle.network.placement import matmul_weights, place


class Net(nn.Module):
    """Some layers, put together by `wire`."""

    def __init__(self, wire: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout()
        self.head = nn.Linear(4, 3)
        self.wire = wire

    def forward(self, x: Tensor) -> Tensor:
        return self.wire(self, x)


def _place(
    wire: Callable[[Net, Tensor], Tensor], *, without: str = "", quantize_output: bool = False
) -> tuple[set[str], dict[str, str]]:
    captured = capture(Net(wire), torch.randn(2, 4, 8, 8))
    weights = [name for name in matmul_weights(captured) if name != f"{without}.weight"]
    placement = place(captured, weights, quantize_output=quantize_output)
    assert not set(placement.own) & set(placement.shared)
    assert set(placement.shared.values()) <= set(placement.own)
    return {str(site) for site in placement.own}, {str(site): str(own) for site, own in placement.shared.items()}


def test_a_chain_is_quantized_after_each_relu_and_not_at_its_logits() -> None:
    own, shared = _place(lambda n, x: n.head(n.pool(n.relu(n.b(n.relu(n.a(x))))).mean((2, 3))))
    assert own == {"<input>:0:0", "relu:0:0", "relu:1:0", ":0:0"}
    assert shared == {"pool:0:0": "relu:1:0"}


def test_the_output_is_quantized_if_asked() -> None:
    own, _ = _place(lambda n, x: n.relu(n.a(x)), quantize_output=True)
    assert own == {"<input>:0:0", "relu:0:0"}
    own, shared = _place(lambda n, x: n.pool(n.a(x)), quantize_output=True)
    assert own == {"<input>:0:0", "a:0:0"}
    assert shared == {"pool:0:0": "a:0:0"}


def test_the_sum_of_a_residual_block_is_quantized_after_its_relu() -> None:
    own, _ = _place(lambda n, x: n.b(functional.relu(n.b(y := n.relu(n.a(x))) + y)))
    assert own == {"<input>:0:0", "relu:0:0", "b:0:0", ":1:0"}


def test_an_output_used_before_and_after_its_relu_is_quantized_twice() -> None:
    own, _ = _place(lambda n, x: n.b(n.relu(y := n.a(x)) + y))
    assert own == {"<input>:0:0", "a:0:0", "relu:0:0", ":0:0"}


def test_a_concatenation_of_quantized_values_is_quantized() -> None:
    own, shared = _place(lambda n, x: n.b(torch.cat([n.a(x)[:, :2], n.relu(n.b(x))[:, 2:]], 1)))
    assert {"a:0:0", "relu:0:0"} <= own
    assert set(shared.values()) == {"a:0:0", "relu:0:0"}
    assert any(site.startswith(":") for site in own)


def test_a_float_layer_gets_no_quantizer_except_before_an_integer_one() -> None:
    own, _ = _place(lambda n, x: n.b(n.relu(n.a(x))), without="a")
    assert own == {"relu:0:0"}
    own, _ = _place(lambda n, x: n.a(torch.sigmoid(n.b(x))), without="a")
    assert own == {"<input>:0:0", "b:0:0"} - {"b:0:0"}


def test_dropout_is_seen_through() -> None:
    own, shared = _place(lambda n, x: n.b(n.drop(n.relu(n.a(x)))))
    assert own == {"<input>:0:0", "relu:0:0"}
    assert shared == {}
    own, shared = _place(lambda n, x: n.b(n.pool(n.drop(n.relu(n.a(x))))))
    assert (own, shared) == ({"<input>:0:0", "relu:0:0"}, {"pool:0:0": "relu:0:0"})


def test_a_view_with_a_computed_size_moves_codes() -> None:
    own, shared = _place(lambda n, x: n.head(n.relu(n.a(x)).mean((2, 3)).view(x.size(0), -1)))
    assert own == {"<input>:0:0", "relu:0:0", ":0:0"}
    assert shared == {":1:0": ":0:0"}


def test_what_has_no_integer_kernel_is_quantized_only_where_a_layer_needs_it() -> None:
    own, _ = _place(lambda n, x: n.b(functional.silu(n.norm(n.a(x)))))
    assert own == {"<input>:0:0", "a:0:0", ":0:0"}


def test_arithmetic_with_a_number_or_a_weight_is_left_float_until_needed() -> None:
    own, _ = _place(lambda n, x: n.b(functional.silu(n.a(x) * 2.0 + n.head.bias.sum())))
    assert own == {"<input>:0:0", "a:0:0", ":3:0"}


def test_a_reused_relu_has_a_range_for_each_call() -> None:
    own, _ = _place(lambda n, x: n.a(n.relu(n.a(n.relu(n.a(x))))))
    assert own == {"<input>:0:0", "relu:0:0", "relu:1:0"}


def test_matmul_weights_are_found_once_in_graph_order() -> None:
    captured = capture(Net(lambda n, x: n.a(n.b(n.a(x)))), torch.randn(2, 4, 8, 8))
    assert list(matmul_weights(captured)) == ["a.weight", "b.weight"]


def test_a_recurrent_network_is_left_float_but_its_head_is_not() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    captured = capture(Recurrent(), torch.randn(2, 5, 3))
    placement = place(captured, matmul_weights(captured), quantize_output=False)
    assert list(matmul_weights(captured)) == ["head.weight"]
    assert {str(site) for site in placement.own} == {"lstm:2:0"}
