"""dwindle makes a trained network fit an edge device and proves it by measuring the file that will be deployed.

Names are imported when they are first used (PEP 562), so that `import dwindle` is quick and `import dwindle.container`
works where torch is not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dwindle.public_names import PUBLIC_NAMES

if TYPE_CHECKING:
    from dwindle import errors
    from dwindle.bench.budget import Budget
    from dwindle.bench.deployment import deploy
    from dwindle.bench.ledger import Ledger
    from dwindle.bench.measure import measure
    from dwindle.bench.measurement import Metric
    from dwindle.bench.plan import Plan
    from dwindle.bench.probes.scores import Score
    from dwindle.container import read
    from dwindle.core.assignment import Reassign
    from dwindle.core.granularity import PerChannel, PerGroup, PerTensor
    from dwindle.core.ranges import Calibration, MinMax, Mse, Percentile
    from dwindle.core.schedule import Constant, Polynomial
    from dwindle.core.sparsity import NOfM
    from dwindle.exporters.options import ExportOptions
    from dwindle.exporters.preprocessing import Preprocessing
    from dwindle.network.compressed import CompressedModel
    from dwindle.network.distillation import Distillation
    from dwindle.network.fabric_trainer import FabricTrainer
    from dwindle.network.labelled import Labelled
    from dwindle.network.rewind import Rewind
    from dwindle.network.select import Select
    from dwindle.network.significance.change import Binary, Clustered, Pruned, Rounded
    from dwindle.network.significance.curvature import FisherTrace, HessianTrace
    from dwindle.network.significance.deviation import WeightDeviation
    from dwindle.network.significance.dimension import LevinaBickelChange, PCAChange, TwoNNChange
    from dwindle.network.significance.guide import Guide
    from dwindle.network.significance.sensitivity import LossSensitivity
    from dwindle.network.significance.significance import Significance
    from dwindle.recipe import Recipe
    from dwindle.technique import Context
    from dwindle.techniques.binarize import Binarize
    from dwindle.techniques.cast_half import CastHalf
    from dwindle.techniques.cluster import Cluster
    from dwindle.techniques.correct_bias import CorrectBias
    from dwindle.techniques.densify import Densify
    from dwindle.techniques.distill import Distill
    from dwindle.techniques.fine_tune import FineTune
    from dwindle.techniques.fold_batchnorm import FoldBatchNorm
    from dwindle.techniques.mixed_precision import MixedPrecision
    from dwindle.techniques.prune_channels import PruneChannels
    from dwindle.techniques.prune_weights import PruneWeights
    from dwindle.techniques.quantize_aware import QuantizeAware
    from dwindle.techniques.quantize_dynamic import QuantizeDynamic
    from dwindle.techniques.quantize_static import QuantizeStatic
    from dwindle.techniques.quantize_weights import QuantizeWeights
    from dwindle.techniques.reestimate_batchnorm import ReestimateBatchNorm

    __version__: str

__all__ = [
    "Binarize",
    "Binary",
    "Budget",
    "Calibration",
    "CastHalf",
    "Cluster",
    "Clustered",
    "CompressedModel",
    "Constant",
    "Context",
    "CorrectBias",
    "Densify",
    "Distill",
    "Distillation",
    "ExportOptions",
    "FabricTrainer",
    "FineTune",
    "FisherTrace",
    "FoldBatchNorm",
    "Guide",
    "HessianTrace",
    "Labelled",
    "Ledger",
    "LevinaBickelChange",
    "LossSensitivity",
    "Metric",
    "MinMax",
    "MixedPrecision",
    "Mse",
    "NOfM",
    "PCAChange",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "Percentile",
    "Plan",
    "Polynomial",
    "Preprocessing",
    "PruneChannels",
    "PruneWeights",
    "Pruned",
    "QuantizeAware",
    "QuantizeDynamic",
    "QuantizeStatic",
    "QuantizeWeights",
    "Reassign",
    "Recipe",
    "ReestimateBatchNorm",
    "Rewind",
    "Rounded",
    "Score",
    "Select",
    "Significance",
    "TwoNNChange",
    "WeightDeviation",
    "__version__",
    "deploy",
    "errors",
    "measure",
    "read",
]


def __getattr__(name: str) -> Any:
    """Import the public `name` from the module that holds it.

    Raises:
        AttributeError: no such public name.
    """
    if name not in PUBLIC_NAMES:
        raise AttributeError(f"module 'dwindle' has no attribute {name!r}; it has {', '.join(__all__)}")
    module_name, _, attribute = PUBLIC_NAMES[name].partition(":")
    module = importlib.import_module(module_name)
    value = getattr(module, attribute) if attribute else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
