"""This file runs the comparison with TFMOT: PCQAT of a ResNet-18 of width 16 on CIFAR-10, seed by seed, side by side.

    python benchmarks/tfmot/run.py --peer PYTHON [--side SIDE] [--seeds 0,1,2] [--smoke] [--threads N]

PYTHON is the interpreter of the peer's own environment (README.md says how to make it); SIDE is `ours`, `ours_global`
(zeros of all weights together) or `theirs`. Outcomes go to FOLDER/ledger.jsonl (out/tfmot). Any number of processes may
run at once: a lock gives each side of each seed to one of them. Killed and called again, a process goes on after the
last finished epoch. Once there is an outcome of both sides, the table is printed; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from images import cut, write_images
from page import OUTCOME, comparisons_of, page, summary
from settings import SCOPES, SIDES, Settings, settings_of

from dwindle.bench.ledger import Entry, Ledger
from dwindle.bench.machine import this_machine
from dwindle.data.cifar10 import load_cifar10
from dwindle.data.splits import Splits
from dwindle.studies.locks import Locks
from dwindle.studies.make import pack_bits
from dwindle.version import VERSION

HERE = Path(__file__).resolve().parent


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    settings, ledger = settings_of(is_smoke=options.smoke), Ledger(options.out / "ledger.jsonl")
    splits = cut(load_cifar10(), n_train=settings.n_train, n_test=settings.n_test)
    locks = Locks(options.out / "locks")
    sides = SIDES if options.side is None else (options.side,)
    for seed in options.seeds:
        for side in sides:
            unit = Unit(side=side, seed=seed, splits=splits, settings=settings, options=options)
            if unit.is_in(ledger):
                continue
            with locks.take(f"{side}-{seed}") as is_ours:
                if is_ours and not unit.is_in(ledger):
                    print(f"{side}, seed {seed}", flush=True)
                    ledger.append(OUTCOME, unit.made())
    entries = _entries(ledger)
    try:
        comparisons = comparisons_of(entries)
    except ValueError:  # one side is missing
        return
    print(page(entries))
    print(json.dumps(summary(comparisons)))


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One side of one seed: what a process takes on."""

    side: str
    seed: int
    splits: Splits
    settings: Settings
    options: argparse.Namespace

    @property
    def key(self) -> str:
        """Of the settings."""
        return self.settings.key(self.side)

    @property
    def folder(self) -> Path:
        """Checkpoints and files."""
        return self.options.out / "work" / f"{self.side}-{self.seed}-{self.key}"

    def is_in(self, ledger: Ledger) -> bool:
        """Return whether the outcome is there."""
        found = [entry.data for entry in _entries(ledger) if entry.kind == OUTCOME]
        return any((data["side"], data["seed"], data["key"]) == (self.side, self.seed, self.key) for data in found)

    def made(self) -> dict[str, Any]:
        """Return everything about the outcome as plain values."""
        found = self._ours() if self.side in SCOPES else self._theirs()
        right = found.pop("answers")
        plain = asdict(self.settings)
        rates = {stage: list(rates) for stage, rates in plain["rates"][self.side].items()}
        return {
            "side": self.side,
            "seed": self.seed,
            "key": self.key,
            "settings": {**plain, "rates": rates},
            "version": VERSION,
            "machine": this_machine().summary(),
            "n_threads": self.options.threads,
            **found,
            "answers": {"n": len(right), "right": pack_bits(right)},
        }

    def _ours(self) -> dict[str, Any]:
        from ours import Run  # the peer's side needs none of it

        return Run(self.side, self.folder, self.splits, self.seed, self.settings, self.options.threads).finish()

    def _theirs(self) -> dict[str, Any]:
        """Run the peer in its own environment, on the pixels that it gets from us."""
        images = self.folder / "images.npz"
        if not (self.folder / "result.json").exists():
            write_images(self.splits, images)
            arguments = ["--images", images, "--folder", self.folder, "--seed", self.seed]
            arguments += ["--threads", self.options.threads, *(["--smoke"] if self.options.smoke else [])]
            threads = {"OMP_NUM_THREADS": str(self.options.threads)}
            command = [self.options.peer, HERE / "theirs.py", *arguments]
            subprocess.run([str(word) for word in command], check=True, env={**os.environ, **threads})
            images.unlink(missing_ok=True)
        result = json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
        return {**result, "answers": np.load(self.folder / "answers.npy")}


def _entries(ledger: Ledger) -> tuple[Entry, ...]:
    return ledger.read() if ledger.path.exists() else ()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=os.environ.get("TFMOT_PYTHON"), help="its python (or TFMOT_PYTHON)")
    parser.add_argument("--side", choices=SIDES, help="one side only")
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--smoke", action="store_true", help="256 images and an epoch a stage: does it run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder (out/tfmot, or out/tfmot-smoke)")
    options = parser.parse_args()
    options.out = (options.out or Path("out/tfmot-smoke" if options.smoke else "out/tfmot")).resolve()
    if options.side not in SCOPES and shutil.which(options.peer or "") is None:
        sys.exit(f"--peer {options.peer}: no interpreter is there; README.md says how to make the peer's environment")
    return options


if __name__ == "__main__":
    main()
