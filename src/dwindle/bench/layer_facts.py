"""This file reads off a file what its layers multiply with: how many weights are zero, and which values are integers.

The engine's first, safe rewriting computes what is constant in the graph, so that weights stand as numbers however they
are stored; quantizers around layers are still there. So the facts are those of what the engine is given.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dwindle.artifact import Artifact
from dwindle.bench.multiplying import PRODUCTS
from dwindle.container.session import EngineOptions
from dwindle.runtimes.onnxruntime import OnnxRuntime
from dwindle.runtimes.protocol import Array

if TYPE_CHECKING:
    from onnx import GraphProto

_ZERO_POINTS: Final[Mapping[str, Mapping[int, tuple[int, int]]]] = {
    "ConvInteger": {1: (3, 0)}, "QLinearConv": {3: (5, 0)},
    "MatMulInteger": {1: (3, -1), 0: (2, -2)}, "QLinearMatMul": {3: (5, -1), 0: (2, -2)},
    "DynamicQuantizeLSTM": {1: (9, 0), 2: (11, 0)},
}  # fmt: skip
"""Of operations that read codes: place of a weight -> that of its zero point, and the axis where it holds several."""
_MOVING: Final = frozenset({
    "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Identity", "MaxPool", "Pad", "Split", "Concat",
})  # fmt: skip
"""They hand codes on as they are."""
_AFTER: Final = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "Add", *_MOVING})
"""What engines merge into the layer before, so that its result is quantized behind it."""
_FLOAT: Final = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFacts:
    """What one operation multiplies with.

    Attributes:
        name: of its weight in the file.
        kind: of the operation: Conv, Gemm, LSTM, ...
        n_weights: numbers in the weight.
        n_zeros: how many of them are zero.
        weights: type of the weights as they reach the operation: int8, float32, ...
        inputs: type of the values that reach it.
        outputs: type of the codes that its result is rounded to; float32 where it is not.
    """

    name: str
    kind: str
    n_weights: int
    n_zeros: int
    weights: str
    inputs: str
    outputs: str

    @property
    def is_int8(self) -> bool:
        """Weights and inputs are integers of at most 8 bits, so integer kernels could run it."""
        return is_byte(self.weights) and is_byte(self.inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """The layers of a file, and how many quantizers stand between them."""

    layers: tuple[LayerFacts, ...]
    n_quantizers: int = 0

    @property
    def n_weights(self) -> int:
        """All weights that are multiplied with."""
        return sum(layer.n_weights for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """Fraction of them that are zero."""
        return sum(layer.n_zeros for layer in self.layers) / max(self.n_weights, 1)


def is_byte(numbers: str) -> bool:
    """Return whether a type is an integer of at most 8 bits.

    >>> is_byte("uint8"), is_byte("int4"), is_byte("int16"), is_byte("float32")
    (True, True, False, False)
    """
    return numbers.removeprefix("u") in {"int8", "int4", "int2"}


def facts_of(artifact: Artifact) -> FileFacts | None:
    """Return the facts of a `.onnx` or `.dwn` file; None for a file that only its own engine can open.

    Raises:
        MeasurementError: the engine refuses the file.
        ContainerError: a `.dwn` file is broken.
    """
    runtime = OnnxRuntime()
    if artifact.format not in runtime.formats or runtime.unavailable():
        return None
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        with runtime.load_with(artifact, EngineOptions(graph_level="basic", optimized_path=str(path))):
            graph = onnx.load(str(path)).graph
    return _Reading(graph).facts()


class _Reading:
    """A graph whose constants are computed, and the questions that are asked of it."""

    def __init__(self, graph: GraphProto) -> None:
        self._nodes = list(graph.node)
        self._constants: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
        self._producers: dict[str, Any] = {output: node for node in graph.node for output in node.output}
        self._readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def facts(self) -> FileFacts:
        """Return what there is to say of the graph."""
        n = sum(node.op_type in {"QuantizeLinear", "DynamicQuantizeLinear"} for node in self._nodes)
        return FileFacts(layers=tuple(self._layers()), n_quantizers=n)

    def _layers(self) -> Iterator[LayerFacts]:
        for node in self._nodes:
            found = [(place, self._weight_at(node, place)) for place in self._places(node)]
            known = [(place, weight) for place, weight in found if weight is not None]
            if not known:
                continue
            weights = [weight for _, weight in known]
            yield LayerFacts(
                name=weights[0][0],
                kind=node.op_type,
                n_weights=sum(array.size for _, array, _ in weights),
                n_zeros=sum(int((array == zero).sum()) for _, array, zero in weights),
                weights=weights[0][1].dtype.name,
                inputs=self._numbers_into(node, known[0][0]),
                outputs=self._numbers_after(node.output[0]),
            )

    def _places(self, node: Any) -> Iterator[int]:
        product = PRODUCTS.get(node.op_type)
        if product is None:
            return
        for place in product.weights:
            if place < len(node.input) and node.input[place]:
                yield place
                if product.count != "steps" and self._weight(node.input[place]) is not None:
                    return  # of a product, one side holds weights

    def _weight_at(self, node: Any, place: int) -> tuple[str, Array, Array] | None:
        """Return the same of an input of an operation, which may itself take the zero point of codes."""
        found = self._weight(node.input[place])
        zero, axis = _ZERO_POINTS.get(node.op_type, {}).get(place, (len(node.input), 0))
        if found is None or zero >= len(node.input):
            return found
        return found[0], found[1], self._zero_of(node.input[zero], found[1].shape, axis=axis)

    def _weight(self, name: str) -> tuple[str, Array, Array] | None:
        """Return name, numbers and zero of a constant, through what only unpacks it; None for what is none."""
        tensor, node = self._constants.get(name), self._producers.get(name)
        if tensor is not None:
            array = _array(tensor)
            return (_bare(name), array, np.zeros((), np.int64)) if array.ndim > 1 else None
        if node is None or node.op_type not in {"DequantizeLinear", "Transpose", "Cast", "Identity", "Reshape"}:
            return None
        found = self._weight(node.input[0])
        if found is not None and node.op_type == "DequantizeLinear" and len(node.input) > 2:
            return found[0], found[1], self._zero_point(node, found[1].shape)
        return found

    def _zero_point(self, node: Any, shape: tuple[int, ...]) -> Array:
        """Return the code of zero in a form that broadcasts against codes of `shape`, which `node` reads.

        It is one for all, one for each place along `axis`, or one for each `block_size` places along it (ONNX,
        DequantizeLinear 21).
        """
        told = {attribute.name: attribute.i for attribute in node.attribute}
        return self._zero_of(node.input[2], shape, axis=told.get("axis", 1), block_size=told.get("block_size", 0))

    def _zero_of(self, name: str, shape: tuple[int, ...], *, axis: int, block_size: int = 0) -> Array:
        found = self._constants.get(name)
        values = np.zeros((), np.int64) if found is None else _array(found)
        if values.size == 1:
            return values.reshape(())
        if values.ndim == 2 and len(shape) == 3:  # (directions, columns) of the weights of a recurrent layer
            return values[:, None, :]
        if values.ndim == 1:
            return values.reshape([-1 if place == axis % len(shape) else 1 for place in range(len(shape))])
        return np.repeat(values, block_size, axis=axis).take(range(shape[axis]), axis=axis) if block_size else values

    def _numbers_into(self, node: Any, place_of_weight: int) -> str:
        product = PRODUCTS[node.op_type]
        if product.count == "steps" and product.is_integer:
            return "uint8"  # it takes floats and makes codes of them itself
        return self._numbers_before(str(node.input[1 if place_of_weight == 0 else 0]))

    def _numbers_before(self, name: str) -> str:
        node = self._producers.get(name)
        while node is not None and node.op_type in _MOVING:
            name = node.input[0]
            node = self._producers.get(name)
        if node is None:
            return _FLOAT
        if node.op_type == "DynamicQuantizeLinear":
            return "uint8"
        return self._codes_of(node) if node.op_type in {"DequantizeLinear", "QuantizeLinear"} else _FLOAT

    def _numbers_after(self, name: str) -> str:
        seen: set[str] = set()
        pending = [name]
        while pending:
            for reader in self._readers.get(pending.pop(), ()):
                if reader.op_type == "QuantizeLinear":
                    return self._codes_of(reader)
                if reader.op_type in _AFTER and reader.output[0] not in seen:
                    seen.add(reader.output[0])
                    pending.append(reader.output[0])
        return _FLOAT

    def _codes_of(self, node: Any) -> str:
        """Return the type of the codes on one side of a quantizer; a zero point has it."""
        zero_point = self._constants.get(node.input[2]) if len(node.input) > 2 else None
        return "uint8" if zero_point is None else _array(zero_point).dtype.name


def _array(tensor: Any) -> Array:
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(tensor))


def _bare(name: str, parts: Collection[str] = ("/codes", "/values", "/dequantized")) -> str:
    """Return the name of a weight without what tells how it is stored, or that a batch norm is in it."""
    name = name.removeprefix("ConvBnFusion_W_").removeprefix("ConvMulFusion_W_")
    return next((name[: name.index(part)] for part in parts if part in name), name)
