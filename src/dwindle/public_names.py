"""This file lists the names of `import dwindle as dw` and where each lives: `module:attribute`, or a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PUBLIC_NAMES: Final[Mapping[str, str]] = {
    "Budget": "dwindle.bench.budget:Budget",
    "Calibration": "dwindle.core.ranges:Calibration",
    "CastHalf": "dwindle.techniques.cast_half:CastHalf",
    "Cluster": "dwindle.techniques.cluster:Cluster",
    "CompressedModel": "dwindle.network.compressed:CompressedModel",
    "Constant": "dwindle.core.schedule:Constant",
    "Context": "dwindle.technique:Context",
    "CorrectBias": "dwindle.techniques.correct_bias:CorrectBias",
    "Densify": "dwindle.techniques.densify:Densify",
    "Distillation": "dwindle.network.distillation:Distillation",
    "ExportOptions": "dwindle.exporters.options:ExportOptions",
    "FabricTrainer": "dwindle.network.fabric_trainer:FabricTrainer",
    "FineTune": "dwindle.techniques.fine_tune:FineTune",
    "FoldBatchNorm": "dwindle.techniques.fold_batchnorm:FoldBatchNorm",
    "Ledger": "dwindle.bench.ledger:Ledger",
    "Metric": "dwindle.bench.measurement:Metric",
    "MinMax": "dwindle.core.ranges:MinMax",
    "Mse": "dwindle.core.ranges:Mse",
    "PerChannel": "dwindle.core.granularity:PerChannel",
    "PerGroup": "dwindle.core.granularity:PerGroup",
    "PerTensor": "dwindle.core.granularity:PerTensor",
    "Percentile": "dwindle.core.ranges:Percentile",
    "Plan": "dwindle.bench.plan:Plan",
    "Polynomial": "dwindle.core.schedule:Polynomial",
    "Preprocessing": "dwindle.exporters.preprocessing:Preprocessing",
    "PruneWeights": "dwindle.techniques.prune_weights:PruneWeights",
    "QuantizeAware": "dwindle.techniques.quantize_aware:QuantizeAware",
    "QuantizeDynamic": "dwindle.techniques.quantize_dynamic:QuantizeDynamic",
    "QuantizeStatic": "dwindle.techniques.quantize_static:QuantizeStatic",
    "QuantizeWeights": "dwindle.techniques.quantize_weights:QuantizeWeights",
    "Reassign": "dwindle.core.assignment:Reassign",
    "Recipe": "dwindle.recipe:Recipe",
    "ReestimateBatchNorm": "dwindle.techniques.reestimate_batchnorm:ReestimateBatchNorm",
    "Score": "dwindle.bench.probes.scores:Score",
    "Select": "dwindle.network.select:Select",
    "__version__": "dwindle.version:VERSION",
    "deploy": "dwindle.bench.deployment:deploy",
    "errors": "dwindle.errors",
    "measure": "dwindle.bench.measure:measure",
    "read": "dwindle.container:read",
}
