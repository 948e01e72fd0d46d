"""This file holds what both sides of the comparison with TFMOT have in common; it imports neither torch nor TensorFlow.

Dense training, pruning on a polynomial schedule, sparsity-preserving clustering with fine-tuning, and PCQAT: every
stage starts from the one before. Where a stage has several peak learning rates, each is tried for `trial_epochs`, the
best one on the validation split is taken, and the stage then starts anew with it for its full number of epochs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

STAGES = ("dense", "pruned", "clustered", "quantized")
SIDES = ("ours", "ours_global", "theirs")
SCOPES = {"ours": "layer", "ours_global": "global"}
"""Of our sides: whether each layer loses its 80 %, as TFMOT has it, or all weights are ranked together."""
BATCH_SIZE = 128
WEIGHT_DECAY = 5e-4
MOMENTUM = 0.9
WARM_UP = 0.05
"""Share of the steps of a stage in which the learning rate rises; then half a cosine, as `FabricTrainer` has it."""
PADDING = 4
WIDTHS = (16, 32, 64, 128)
N_BLOCKS = 2
N_CLASSES = 10

Rates = dict[str, tuple[float, ...]]


def _ours() -> Rates:
    return {"dense": (0.1,), "pruned": (0.05,), "clustered": (0.02, 0.005), "quantized": (0.02, 0.005, 0.001)}


def _theirs() -> Rates:
    # Their PCQAT sums a centroid's gradient over its weights, 15 to 2,000 of them, so its steps may have to be smaller.
    return {"dense": (0.1,), "pruned": (0.05,), "clustered": (0.02, 0.005), "quantized": (0.02, 0.005, 0.0005)}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the outcome of a side, besides the seed.

    Attributes:
        n_train: images of the training split that are used; None takes all. The other splits are cut alike.
        trial_epochs: how long a learning rate is tried; a fraction is allowed.
        n_levels: values that a clustered tensor may hold, zero included.
        prune_end: share of the pruning stage after which the sparsity no longer grows.
        rates: peak learning rates to try, by side and stage.
    """

    epochs: dict[str, int] = field(default_factory=lambda: {"dense": 10, "pruned": 3, "clustered": 3, "quantized": 3})
    trial_epochs: float = 0.5
    n_train: int | None = None
    n_test: int | None = None
    sparsity: float = 0.8
    n_levels: int = 16
    prune_end: float = 0.75
    prune_frequency: int = 10
    rates: dict[str, Rates] = field(
        default_factory=lambda: {"ours": _ours(), "ours_global": _ours(), "theirs": _theirs()}
    )

    def key(self, side: str) -> str:
        """Return a hash of what decides the outcome of one side, besides which side it is."""
        plain = asdict(self)
        plain["rates"] = {stage: list(rates) for stage, rates in self.rates[side].items()}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


FULL = Settings()
SMOKE = Settings(
    epochs={"dense": 1, "pruned": 1, "clustered": 1, "quantized": 1}, n_train=256, n_test=200, prune_frequency=1
)


def settings_of(*, is_smoke: bool) -> Settings:
    return SMOKE if is_smoke else FULL


def derive(seed: int, epoch: int, purpose: str) -> int:
    """Return the seed of one random choice."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()[:7], "big")
