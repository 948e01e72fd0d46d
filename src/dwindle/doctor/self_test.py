"""This file tests the installation from end to end: a small network becomes files, which must answer as it does."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Final

from dwindle.doctor.finding import Finding, broken, fine

SUBJECT: Final = "self-test"


def check_end_to_end() -> Finding:
    """Return whether a small network is quantized, written as .dwn and .onnx, loaded again, and answers alike."""
    start = time.perf_counter()
    try:
        worst = _worst_parity()
    except Exception as error:  # ruff: ignore[blind-except] whatever breaks here is the finding
        reason = (str(error).strip().splitlines() or [""])[0]
        return broken(
            SUBJECT,
            f"a small network could not be exported and run: {type(error).__name__}: {reason}",
            "mend what is broken above, or install dwindle anew in a fresh virtual environment",
        )
    seconds = time.perf_counter() - start
    if worst > 1.0:
        return broken(
            SUBJECT,
            f"a file answers {worst:.1f} times as far from the model as it may",
            "install the declared versions of onnxruntime and torch",
        )
    return fine(SUBJECT, f"a network became .dwn and .onnx and answers alike, {seconds:.1f} s")


def _worst_parity() -> float:
    """Return the largest difference between a file and the model, as a fraction of what is allowed."""
    import torch
    from torch import nn

    from dwindle.bench.deployment import deploy
    from dwindle.network.compressed import CompressedModel
    from dwindle.recipe import Recipe
    from dwindle.technique import Context
    from dwindle.techniques.quantize_weights import QuantizeWeights

    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    example = torch.randn(8, 1, 6, 6, generator=generator)
    model = Recipe((QuantizeWeights(),)).run(CompressedModel.dense(network), Context(example=example))
    with tempfile.TemporaryDirectory(prefix="dwindle-doctor-") as folder:
        found = deploy(model, example, Path(folder), formats=("dwn", "onnx")).parity
    parities = [m for m in found if m.metric.name == "parity"]
    return max(m.value / float(m.conditions["bound"]) for m in parities)
