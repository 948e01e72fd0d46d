"""This file converts one torch program into one `.tflite` file, in the environment that holds LiteRT's converter.

It is run as a script by that environment's Python, which need not have dwindle: arguments are the program, the file to
write, and what becomes of quantize/dequantize pairs ("float", "static", "dynamic", "half").
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def convert(source: Path, target: Path, mode: str) -> None:
    """Write the program at `source`, which the caller has just written, as `target`."""
    import torch

    converter: Any = import_module("litert_torch")
    import_module("torch.ao.quantization.fx._decomposed")  # registers the operations of the pairs
    program = torch.export.load(str(source))
    inputs = (program.example_inputs or ((), {}))[0]
    module = program.module(check_guards=False)
    converted = converter.convert(module, inputs, quant_config=_pairs_become(mode))
    converted.export(str(target))
    if mode == "half":
        _store_halves(target)
    if mode == "static":
        _widen_biases(target)


def _pairs_become(mode: str) -> Any:
    """Return the setting that lets the converter merge pairs into integer kernels; the quantizer in it is not run."""
    if mode not in {"static", "dynamic"}:
        return None
    pairs: Any = import_module("litert_torch.quantize.pt2e_quantizer")
    settings: Any = import_module("litert_torch.quantize.quant_config")
    config = pairs.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=mode == "dynamic")
    return settings.QuantConfig(pt2e_quantizer=pairs.PT2EQuantizer().set_global(config))


def _store_halves(path: Path) -> None:
    """Store float32 weights as float16, which the engine widens when it loads them; every parameter is one already."""
    types: Any = import_module("ai_edge_quantizer.qtyping")
    manager: Any = import_module("ai_edge_quantizer.recipe_manager")
    quantizer: Any = import_module("ai_edge_quantizer.quantizer")
    half = types.TensorQuantizationConfig(num_bits=16, dtype="FLOAT")
    recipe = manager.RecipeManager()
    recipe.add_quantization_config(
        regex=".*",
        operation_name=types.TFLOperationName.ALL_SUPPORTED,
        op_config=types.OpQuantizationConfig(weight_tensor_config=half, compute_precision="FLOAT"),
        algorithm_key="float_casting",
    )
    made = quantizer.Quantizer(str(path), recipe.get_quantization_recipe()).quantize()
    path.write_bytes(made.quantized_model)


def _widen_biases(path: Path) -> None:
    """Store biases beside 16-bit activations in 64 bits: the kernels read them as such, the converter writes 32."""
    import numpy as np

    files: Any = import_module("ai_edge_litert.tools.flatbuffer_utils")
    schema: Any = import_module("ai_edge_litert.schema_py_generated")
    kinds, codes = schema.TensorType, schema.BuiltinOperator
    model, is_changed = files.read_model(str(path)), False
    biased = {codes.CONV_2D, codes.DEPTHWISE_CONV_2D, codes.CONV_3D, codes.FULLY_CONNECTED}
    for graph in model.subgraphs:
        for operation in graph.operators:
            code = model.operatorCodes[operation.opcodeIndex]
            is_biased = max(code.builtinCode, code.deprecatedBuiltinCode) in biased  # small codes stand in either
            if not is_biased or len(operation.inputs) < 3 or operation.inputs[2] < 0:
                continue
            value, bias = graph.tensors[operation.inputs[0]], graph.tensors[operation.inputs[2]]
            data = model.buffers[bias.buffer].data
            if value.type == kinds.INT16 and bias.type == kinds.INT32 and data is not None and len(data):
                wide = np.frombuffer(bytes(data), np.int32).astype(np.int64)
                model.buffers[bias.buffer].data = np.frombuffer(wide.tobytes(), np.uint8)
                bias.type, is_changed = kinds.INT64, True
    if is_changed:
        files.write_model(model, str(path))


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
