"""This file holds what a user may choose about an exported file, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from dwindle.errors import SettingError
from dwindle.exporters.preprocessing import Preprocessing
from dwindle.settings import to_plain

FloatType = Literal["float32", "float16"]
OPSETS: Final = range(15, 22)
"""Before 15 a graph would need other operations; 21 is the first with 4-bit integers, and enough for torch."""
OLDEST_IR: Final = {15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10}
"""The first version of ONNX's file format that knows an opset."""
LARGEST_BATCH: Final = 2**31 - 1
"""What every engine can count to."""
NEWEST_IR: Final = 13
"""What onnxruntime 1.31 reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What the graph inside a file looks like; the defaults are what onnxruntime runs best.

    Attributes:
        opset: version of the ONNX operators, 15 to 21; `.tflite` and `.pte` have none. Below 21 there are no 4-bit
            integers, so codes and indices of 4 bits take 8 in an `.onnx`, and no 16-bit activations.
        ir_version: version of ONNX's file format; None takes the oldest that knows the opset.
        batch_size: None accepts any batch size; a number fixes it, as compilers for accelerators demand.
        float_type: what floats are computed in; inputs and outputs stay float32. With `float16` an `.onnx` holds
            float16 weights. Engines without float16 kernels (onnxruntime's CPU provider has few) convert to float32 and
            back around every operation, which costs time and saves no memory.
        preprocessing: arithmetic put in front of the network, so that the file takes raw inputs.
        class_names: one for each output of a classifier, in order; written into the metadata of `.dwn`, `.onnx` and
            `.xml` files as `class_names`. A `.tflite` or `.pte` file holds no metadata of ours and goes without.
    """

    opset: int = OPSETS[-1]
    ir_version: int | None = None
    batch_size: int | None = None
    float_type: FloatType = "float32"
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise SettingError(f"opset must be in [{OPSETS[0]}, {OPSETS[-1]}], got {self.opset}")
        oldest = OLDEST_IR[self.opset]
        if self.ir_version is not None and not oldest <= self.ir_version <= NEWEST_IR:
            raise SettingError(
                f"opset {self.opset} needs an ir_version in [{oldest}, {NEWEST_IR}], got {self.ir_version}; "
                "choose an older opset, or leave ir_version out"
            )
        if self.batch_size is not None and not 1 <= self.batch_size <= LARGEST_BATCH:
            raise SettingError(f"batch_size must be 1 to {LARGEST_BATCH:,}, or None for any, got {self.batch_size}")
        if self.float_type not in {"float32", "float16"}:
            raise SettingError(f"float_type must be float32 or float16, got {self.float_type!r}")
        if isinstance(self.class_names, str) or not all(isinstance(name, str) for name in self.class_names):  # pyright: ignore[reportUnnecessaryIsInstance] (users)
            raise SettingError(f"class_names must be a tuple of texts, got {self.class_names!r}")

    def metadata(self) -> dict[str, Any]:
        """Return what the file tells about itself, as JSON values: `class_names` and `preprocessing` where given."""
        plain: Mapping[str, Any] = {
            "class_names": list(self.class_names),
            "preprocessing": None if self.preprocessing is None else to_plain(self.preprocessing),
        }
        return {key: value for key, value in plain.items() if value}
