"""This file holds the one table of which operations of ONNX multiply, and with what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Count = Literal["windows", "spread", "rows", "gemm", "steps"]
"""How multiplications are counted: each place of the output takes one window of the weight (a convolution); each value
of the input is spread over one (a transposed convolution); each output is a row times a column; the same, with either
side transposed; each step of a sequence takes the weights once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """An operation that multiplies.

    Attributes:
        count: how its multiplications are counted.
        operands: places of its inputs that are multiplied, the data first.
        is_integer: it computes with codes of 8 bits whatever is around it.
    """

    count: Count
    operands: tuple[int, ...] = (0, 1)
    is_integer: bool = False

    @property
    def weights(self) -> tuple[int, ...]:
        """Places where constants are weights, the likeliest first: of a product of two matrices either side."""
        return self.operands[::-1] if self.count in {"rows", "gemm"} else self.operands[1:]


PRODUCTS: Final[Mapping[str, Product]] = {
    "Conv": Product(count="windows"),
    "ConvInteger": Product(count="windows", is_integer=True),
    "QLinearConv": Product(count="windows", operands=(0, 3), is_integer=True),
    "ConvTranspose": Product(count="spread"),
    "Gemm": Product(count="gemm"),
    "MatMul": Product(count="rows"),
    "MatMulInteger": Product(count="rows", is_integer=True),
    "QLinearMatMul": Product(count="rows", operands=(0, 3), is_integer=True),
    "GRU": Product(count="steps", operands=(0, 1, 2)),
    "LSTM": Product(count="steps", operands=(0, 1, 2)),
    "RNN": Product(count="steps", operands=(0, 1, 2)),
    "DynamicQuantizeLSTM": Product(count="steps", operands=(0, 1, 2), is_integer=True),
}
"""Operations whose multiplications are counted."""

UNCOUNTED: Final = frozenset({
    "Attention", "DFT", "DecoderMaskedMultiHeadAttention", "DeformConv", "DynamicQuantizeMatMul", "Einsum", "FusedConv",
    "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "GemmFloat8", "GroupQueryAttention", "MatMulBnb4",
    "MatMulFpQ4", "MatMulIntegerToFloat", "MatMulNBits", "MoE", "MultiHeadAttention", "NhwcConv", "NhwcFusedConv",
    "PackedAttention", "PackedMultiHeadAttention", "QAttention", "QGemm", "QLinearConvTranspose", "QMoE", "STFT",
    "SparseAttention", "SparseToDenseMatMul", "TransposeMatMul",
})  # fmt: skip
"""Operations that multiply a lot, but not by one of these rules: whoever counts must say so."""

CONVOLUTIONS: Final = frozenset(op for op, product in PRODUCTS.items() if product.count == "windows")
