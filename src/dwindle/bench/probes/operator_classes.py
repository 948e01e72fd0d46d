"""This file sorts the operations of all engines into the classes of a breakdown.

After Figures 2 and 7 of Qin et al. (2018), which show the share of each type of operation in the inference time; what
quantizes and dequantizes stands apart, as it does there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

CLASSES: Final = (
    "convolution",
    "matrix multiplication",
    "recurrent",
    "quantize",
    "dequantize",
    "activation",
    "normalization",
    "pooling",
    "elementwise",
    "data movement",
    "other",
)
ENGINE: Final = "engine"
"""What an engine says of its own run beside its operations: planning, allocating, and writing the profile itself."""
MULTIPLYING: Final = ("convolution", "matrix multiplication", "recurrent")
"""Classes whose operations multiply with weights."""
QUANTIZING: Final = ("quantize", "dequantize")

_OF_ENGINE: Final[Mapping[str, Mapping[str, str]]] = {
    "executorch": {"convert": "quantize"},  # XNNPACK's operation between floats and codes, in either direction
    "openvino": {"subgraph": "elementwise", "parameter": "data movement", "result": "data movement"},
}
_PATTERNS: Final = (
    ("dequantize", r"^dequantize"),
    ("quantize", r"^(dynamic)?quantizelinear|^fakequantize|^quantize(per|$)|^chooseqparams"),
    ("recurrent", r"lstm|gru(cell|seq|$)|rnn"),
    ("convolution", r"conv(?!ert)"),
    ("matrix multiplication", r"matmul|gemm|fullyconnected|batchmatrixmultiply|^linear|addmm|^b?mm|attention|einsum"),
    ("normalization", r"norm|^lrn|^mvn"),
    ("pooling", r"pool|^reducemean|^mean|^reduce$"),
    ("activation", r"relu|sigmoid|tanh|softmax|clip|clamp|swish|elu|erf|softplus|silu|sigm"),
    ("data movement", r"reshape|transpose|permute|concat|^cat|reorder|squeeze|slice|gather|pad|cast|flatten|identity"
                      r"|shape|expand|split|copy|convert|view|tile|where|scatter|onehot|resize|upsample|select|fill"
                      r"|stride|empty|clone|constant|depthtospace|^to$|contiguous|^t$|transfer|embed"),
    ("elementwise", r"^(add|mul|sub|div|sum|pow|sqrt|rsqrt|abs|neg|exp|log|min|max|eltwise|reciprocal|reduce)"),
)  # fmt: skip
_COMPILED: Final = tuple((name, re.compile(pattern)) for name, pattern in _PATTERNS)
_PREFIX: Final = re.compile(r"^(quantizeddecomposed|quantized|qlinear|nhwc|fused|aten)")


def class_of(kind: str, *, engine: str = "") -> str:
    """Return the class of an operation that `engine` calls `kind`.

    >>> class_of("QLinearConv"), class_of("DynamicQuantizeMatMul"), class_of("Fully Connected GEMM")
    ('convolution', 'matrix multiplication', 'matrix multiplication')
    >>> class_of("DynamicQuantizeLinear"), class_of("QLinearAdd"), class_of("Convert", engine="executorch")
    ('quantize', 'elementwise', 'quantize')
    """
    bare = re.sub(r"[^a-z0-9]", "", kind.lower())
    if (found := _OF_ENGINE.get(engine, {}).get(bare)) is not None:
        return found
    name = _PREFIX.sub("", bare)
    return next((group for group, pattern in _COMPILED if pattern.search(name)), "other")
