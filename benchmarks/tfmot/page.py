"""This file makes the page of the comparison with TFMOT from its ledger alone: bytes, accuracy, what was kept.

    python benchmarks/tfmot/page.py LEDGER

A ratio of bytes is exact for each seed. The difference in accuracy has an interval over trainings and test examples:
both sides answered the same examples, and each side's seeds are trainings from scratch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwindle.bench.ledger import Entry, Ledger
from dwindle.core.statistics import Block, Interval, mean_of_trainings
from dwindle.studies.make import unpack_bits

OUTCOME = "peer_outcome"
MOST_OF_THEIR_BYTES = 0.9
NAMES = {"ours": "dwindle, each layer", "ours_global": "dwindle, all together", "theirs": "TFMOT"}
SHARES = {"ours": "of each layer, as TFMOT prunes", "ours_global": "of all weights, ranked together"}
"""Of our sides, in the order of the page: of what the pruned share is."""


@dataclass(frozen=True)
class Outcome:
    """One side of one seed."""

    data: Mapping[str, Any]
    right: NDArray[np.bool_]

    @property
    def side(self) -> str:
        """`ours`, `ours_global` or `theirs`."""
        return self.data["side"]

    @property
    def seed(self) -> int:
        """Of the training."""
        return self.data["seed"]

    @property
    def deployed_bytes(self) -> int:
        """Ours is deployed as it is; TFMOT's file is small only when zipped."""
        return self.data["zipped_bytes" if self.side == "theirs" else "file_bytes"]

    @property
    def stages(self) -> Sequence[Mapping[str, Any]]:
        """How each stage went, in order."""
        return self.data["stages"]


@dataclass(frozen=True)
class Pair:
    """Both sides of one seed."""

    ours: Outcome
    theirs: Outcome

    @property
    def ratio(self) -> float:
        """Our bytes over theirs."""
        return self.ours.deployed_bytes / self.theirs.deployed_bytes


@dataclass(frozen=True)
class Comparison:
    """One of our sides with theirs: the seeds that both have, with the same settings but for learning rates."""

    side: str
    pairs: Sequence[Pair]

    @property
    def accuracy_difference(self) -> Interval:
        """Our accuracy minus theirs in points."""
        return accuracy_difference(self.pairs)

    def summary(self) -> dict[str, Any]:
        """Return its figures as plain values."""
        ratios, difference = [pair.ratio for pair in self.pairs], self.accuracy_difference
        return {
            "side": self.side,
            "seeds": [pair.ours.seed for pair in self.pairs],
            "bytes_ratio": {"mean": fmean(ratios), "least": min(ratios), "greatest": max(ratios)},
            "accuracy_difference": {"value": difference.value, "low": difference.low, "high": difference.high},
            "bytes_are_few_enough": max(ratios) <= MOST_OF_THEIR_BYTES,
            "accuracy": verdict(difference),
        }


def outcomes_of(entries: Iterable[Entry]) -> list[Outcome]:
    """Return the newest outcome of each side and seed, of the settings that each side had last."""
    found = [entry.data for entry in entries if entry.kind == OUTCOME]
    last_key = {data["side"]: data["key"] for data in found}
    newest = {(data["side"], data["seed"]): data for data in found if data["key"] == last_key[data["side"]]}
    return [
        Outcome(data, unpack_bits(data["answers"]["right"], data["answers"]["n"])) for _, data in sorted(newest.items())
    ]


def comparisons_of(entries: Iterable[Entry]) -> list[Comparison]:
    """Return each of our sides that has a seed in common with theirs.

    Raises:
        ValueError: none has.
    """
    found = {(outcome.side, outcome.seed): outcome for outcome in outcomes_of(entries)}
    if not (comparisons := [Comparison(side, pairs) for side in SHARES if (pairs := _paired(found, side))]):
        raise ValueError("the ledger holds no seed of both sides with the same settings; run benchmarks/tfmot/run.py")
    return comparisons


def _paired(found: Mapping[tuple[str, int], Outcome], ours: str) -> list[Pair]:
    seeds = sorted(seed for side, seed in found if side == ours and ("theirs", seed) in found)
    pairs = [Pair(found[ours, seed], found["theirs", seed]) for seed in seeds]
    return [pair for pair in pairs if _shared(pair.ours) == _shared(pair.theirs)]


def accuracy_difference(pairs: Sequence[Pair]) -> Interval:
    """Return our accuracy minus theirs in points."""
    blocks = [
        Block(
            values=100.0 * np.stack([getattr(pair, side).right for pair in pairs]),
            seeds=tuple(pair.ours.seed for pair in pairs),
            family=side,
            examples="test",
            weight=weight,
        )
        for side, weight in (("ours", 1.0), ("theirs", -1.0))
    ]
    return mean_of_trainings(blocks, least_step=100.0, limits=(-100.0, 100.0))


def summary(comparisons: Iterable[Comparison]) -> dict[str, Any]:
    """Return the figures of the page's head."""
    return {"benchmark": "tfmot", "comparisons": [comparison.summary() for comparison in comparisons]}


def verdict(difference: Interval) -> str:
    """Return in words what an interval of our accuracy minus theirs says."""
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "no difference shown"


def page(entries: Iterable[Entry], *, made_from: str = "") -> str:
    """Return the page as Markdown.

    Raises:
        ValueError: there is no seed that both sides have with the same settings.
    """
    comparisons = comparisons_of(entries)
    parts = ["# Side by side with TFMOT: PCQAT of ResNet-18, width 16, CIFAR-10"]
    parts += [made_from] if made_from else []
    parts += [_what_was_run(comparisons), "\n".join(_verdict(comparison) for comparison in comparisons)]
    parts += ["## Bytes and accuracy"]
    for comparison in comparisons:
        parts += [f"### {_share(comparison)}", _files(comparison), _other_bytes(comparison.pairs)]
    parts += ["## What the files keep", _kept(comparisons), _KEPT_LEGEND]
    parts += ["## Stages", _stages(comparisons), _STAGES_LEGEND]
    return "\n\n".join(parts) + "\n"


_KEPT_LEGEND = (
    "Read back from the integer weights of the files. Levels are distinct codes other than zero: of the layer that has "
    "most, and of the output channel that has most. A folded batch norm of negative sign mirrors the codes of its "
    "channel, so a layer may hold up to twice its clusters as codes without having lost one."
)
_STAGES_LEGEND = (
    "Accuracy on the validation split in percent, mean over the seeds of a side, after the stage; the last row is that "
    "of the file. Behind it the peak learning rates; where several were tried, the one that was best on the validation "
    "split after a short trial was taken. The test split was read once for each final file."
)


def _what_was_run(comparisons: Sequence[Comparison]) -> str:
    ours, theirs = comparisons[0].pairs[0].ours.data, comparisons[0].pairs[0].theirs.data
    settings = ours["settings"]
    packages = ", ".join(f"{name} {number}" for name, number in theirs["packages"].items())
    hours = [
        f"{fmean(_seconds(outcome) for outcome in outcomes) / 3600:.1f} h ({NAMES[side]})"
        for side, outcomes in _by_side(comparisons).items()
    ]
    return (
        f"A seed is a training from scratch on each side, {_epochs(settings)} epochs (ours share the dense ones); "
        f"{settings['sparsity']:.0%} zeros, {settings['n_levels']} values in a tensor with zero among them, 8-bit "
        f"weights and activations. Pixels, splits, augmentation, batch size, optimizer and schedule are equal "
        f"(`benchmarks/tfmot/README.md`). dwindle {ours['version']}; {packages}. Machine: {ours['machine']}; "
        f"{ours['n_threads']} thread(s), beside other work: the {sum(settings['epochs'].values())} epochs of a seed "
        f"took {', '.join(hours)}."
    )


def _by_side(comparisons: Sequence[Comparison]) -> dict[str, list[Outcome]]:
    """Return the outcomes of each side, by seed, theirs last."""
    ours = {comparison.side: [pair.ours for pair in comparison.pairs] for comparison in comparisons}
    theirs = {pair.theirs.seed: pair.theirs for comparison in comparisons for pair in comparison.pairs}
    return ours | {"theirs": [theirs[seed] for seed in sorted(theirs)]}


def _seeds(pairs: Sequence[Pair]) -> str:
    return f"seed{'' if len(pairs) == 1 else 's'} {', '.join(str(pair.ours.seed) for pair in pairs)}"


def _share(comparison: Comparison) -> str:
    return f"{comparison.pairs[0].ours.data['settings']['sparsity']:.0%} {SHARES[comparison.side]}"


def _seconds(outcome: Outcome) -> float:
    """Return the time of all epochs, also of those before a kill; trials are not in it."""
    return sum(epoch["seconds"] for stage in outcome.stages for epoch in stage["curve"])


def _epochs(settings: Mapping[str, Any]) -> str:
    words = {"dense": "dense", "pruned": "pruning", "clustered": "clustering", "quantized": "PCQAT"}
    return " + ".join(f"{settings['epochs'][stage]} {word}" for stage, word in words.items())


def _verdict(comparison: Comparison) -> str:
    pairs, difference = comparison.pairs, comparison.accuracy_difference
    ratios = [pair.ratio for pair in pairs]
    met = "met" if max(ratios) <= MOST_OF_THEIR_BYTES else "missed"
    return (
        f"- Zeros are {_share(comparison)}; {_seeds(pairs)}. Bytes of our `.dwn` over those of the zipped `.tflite`: "
        f"**{fmean(ratios):.3f}** [{min(ratios):.3f}, {max(ratios):.3f}], the least and the greatest of the seeds; at "
        f"most {MOST_OF_THEIR_BYTES} was asked for: **{met}**. Our accuracy minus theirs: **{_points(difference)}** "
        f"points, 95 % interval over trainings and {len(pairs[0].ours.right):,} test images; equal or better was asked "
        f"for: **{verdict(difference)}**."
    )


def _files(comparison: Comparison) -> str:
    pairs = comparison.pairs
    head = ["seed", "dwindle, `.dwn`", "TFMOT, zipped `.tflite`", "ratio", "dwindle", "TFMOT", "difference"]
    rows = [
        [
            str(pair.ours.seed),
            *(f"{outcome.deployed_bytes:,}" for outcome in (pair.ours, pair.theirs)),
            f"{pair.ratio:.3f}",
            *(f"{100 * outcome.right.mean():.2f} %" for outcome in (pair.ours, pair.theirs)),
            _points(accuracy_difference([pair])),
        ]
        for pair in pairs
    ]
    sides = [[pair.ours for pair in pairs], [pair.theirs for pair in pairs]]
    means = [
        "mean",
        *(f"{fmean(outcome.deployed_bytes for outcome in side):,.0f}" for side in sides),
        f"{fmean(pair.ratio for pair in pairs):.3f}",
        *(f"{100 * fmean(outcome.right.mean() for outcome in side):.2f} %" for side in sides),
        _points(comparison.accuracy_difference),
    ]
    return _table(head, [*rows, means])


def _other_bytes(pairs: Sequence[Pair]) -> str:
    def mean(side: str, name: str) -> str:
        return f"{fmean(getattr(pair, side).data[name] for pair in pairs):,.0f}"

    return (
        f"Other forms, mean bytes: our `.onnx` {mean('ours', 'onnx_bytes')}, zipped "
        f"{mean('ours', 'onnx_zipped_bytes')}; their `.tflite` as it is {mean('theirs', 'file_bytes')}. "
        "The interval of one seed is over test images alone."
    )


def _kept(comparisons: Sequence[Comparison]) -> str:
    head = ["seed", "side", "zeros", "layer with fewest zeros", "most levels in a layer", "most levels in a channel"]
    rows = [
        [str(outcome.seed), NAMES[side], *_kept_of(outcome)]
        for side, outcomes in _by_side(comparisons).items()
        for outcome in outcomes
    ]
    return _table(head, rows, n_left=2)


def _kept_of(outcome: Outcome) -> list[str]:
    kept = list(outcome.data["kept"].values())
    zeros = sum(layer["zeros"] * layer["n"] for layer in kept) / sum(layer["n"] for layer in kept)
    return [
        f"{zeros:.2%}",
        f"{min(layer['zeros'] for layer in kept):.2%}",
        str(max(layer["values"] for layer in kept)),
        str(max(layer["values_of_a_channel"] for layer in kept)),
    ]


def _stages(comparisons: Sequence[Comparison]) -> str:
    sides = _by_side(comparisons)
    head = ["after", *(f"{NAMES[side]}{what}" for side in sides for what in ("", "; rates"))]
    names = [stage["stage"] for stage in comparisons[0].pairs[0].ours.stages]
    rows = [
        [name, *(cell for outcomes in sides.values() for cell in _stage(outcomes, number))]
        for number, name in enumerate(names)
    ]
    of_files = [_mean_percent(outcome.data["validation_accuracy"] for outcome in side) for side in sides.values()]
    return _table(head, [*rows, ["the file", *(cell for accuracy in of_files for cell in (accuracy, ""))]])


def _stage(outcomes: Sequence[Outcome], number: int) -> list[str]:
    stages = [outcome.stages[number] for outcome in outcomes]
    rates = sorted({stage["rate"] for stage in stages})
    reached = _mean_percent(stage["curve"][-1]["validation_accuracy"] for stage in stages)
    return [reached, ", ".join(f"{rate:g}" for rate in rates)]


def _mean_percent(shares: Iterable[float]) -> str:
    return f"{100 * fmean(shares):.2f}"


def _shared(outcome: Outcome) -> dict[str, Any]:
    return {name: value for name, value in outcome.data["settings"].items() if name != "rates"}


def _points(interval: Interval) -> str:
    return f"{interval.value:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, n_left: int = 1) -> str:
    rule = [":--"] * n_left + ["--:"] * (len(head) - n_left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


if __name__ == "__main__":
    print(page(Ledger(Path(sys.argv[1])).read()), end="")
