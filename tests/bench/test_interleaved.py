"""This file tests timing in turn: on simulated machines that drift, jump, burst, and place every load elsewhere."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.bench.interleaved import Loader, compare, middle, plan
from dwindle.bench.protocol import Action, LatencyProtocol
from dwindle.runtimes.fake import FakeClock

LEVEL = 0.99
"""What `dwindle compare` asks for before it calls two files different."""
SHORT = {"n_pairs": 3, "block": 3, "n_warmup": 1}


@dataclass
class NoisyMachine:
    """A machine whose speed changes with time (`drift`, `steps`, `bursts`, ...), or from load to load."""

    noise: str
    seed: int
    clock: FakeClock = field(default_factory=FakeClock)
    log_speed: float = 0.0
    factor: float = 1.0
    seen: float = 0.0
    next_change: float = 0.0

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)

    def side(self, ms: float) -> Loader:
        @contextmanager
        def load() -> Generator[Action]:
            placement = math.exp(0.02 * self.generator.standard_normal()) if self.noise == "placement" else 1.0
            yield lambda: self.clock.advance(ms / 1e3 * placement * self._factor())

        return load

    def _factor(self) -> float:
        z = float(self.generator.standard_normal())
        return getattr(self, f"_{self.noise}")(z)

    def _independent(self, z: float) -> float:
        return math.exp(0.1 * z)

    def _placement(self, z: float) -> float:
        return math.exp(0.03 * z)

    def _drift(self, z: float) -> float:
        """A speed that forgets itself over 50 runs, 15 % strong, beside 3 % of a run's own."""
        kept = math.exp((self.seen - self.clock()) / 0.05)
        self.seen = self.clock()
        self.log_speed = kept * self.log_speed + 0.15 * math.sqrt(1 - kept**2) * z
        return math.exp(self.log_speed + 0.03 * self.generator.standard_normal())

    def _steps(self, z: float) -> float:
        """The processor takes another frequency every 0.1 s."""
        if self.clock() >= self.next_change:
            self.factor = float(self.generator.choice([1.0, 1.2, 1.5, 2.0]))
            self.next_change = self.clock() + self.generator.exponential(0.1)
        return self.factor * math.exp(0.03 * z)

    def _bursts(self, z: float) -> float:
        """Other work makes everything four times as slow for 30 ms at a time."""
        if self.clock() >= self.next_change:
            self.factor = 5.0 - self.factor
            self.next_change = self.clock() + self.generator.exponential(0.03 if self.factor > 1 else 0.15)
        return self.factor * math.exp(0.03 * z)

    def _spikes(self, z: float) -> float:
        return (10.0 if abs(z) > 2.3 else 1.0) * math.exp(0.03 * self.generator.standard_normal())

    def _heavy_tails(self, z: float) -> float:
        del z
        return 1 + 0.1 * float(self.generator.pareto(1.2))

    def _bimodal(self, z: float) -> float:
        return (1.5 if z > 0 else 1.0) * math.exp(0.02 * z)

    def _sticky_modes(self, z: float) -> float:
        if self.clock() >= self.next_change:
            self.factor = 1.0 if self.factor > 1 else 1.3
            self.next_change = self.clock() + self.generator.exponential(0.01)
        return self.factor * math.exp(0.02 * z)


NOISES = ["independent", "placement", "drift", "steps", "bursts", "spikes", "heavy_tails", "bimodal", "sticky_modes"]


def share(noise: str, n: int, *, truth: float, protocol: dict[str, float]) -> tuple[float, float]:
    """Return how often the files are called different, and how often the interval holds the truth."""
    n_different = n_covered = 0
    for seed in range(n):
        machine = NoisyMachine(noise, seed)
        asked = LatencyProtocol(seed=seed, **protocol)  # type: ignore[arg-type]
        found = compare(machine.side(truth), machine.side(1.0), asked, clock=machine.clock)
        n_different += found.differs
        n_covered += found.ratio.low <= truth <= found.ratio.high
    return n_different / n, n_covered / n


@pytest.mark.parametrize("noise", NOISES)
def test_a_file_does_not_differ_from_itself(noise: str) -> None:
    different, _ = share(noise, 200, truth=1.0, protocol={**SHORT, "level": LEVEL})
    assert different <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISES)
def test_the_interval_keeps_its_level_and_finds_a_difference_of_a_twentieth(noise: str) -> None:
    different, _ = share(noise, 400, truth=1.0, protocol={})
    assert different <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    found, covered = share(noise, 100, truth=1.05, protocol={"level": LEVEL})
    assert covered >= 0.95
    assert found >= (0.2 if noise in {"bimodal", "heavy_tails"} else 0.8)


def test_the_ratio_covers_the_truth_although_the_machine_jumps() -> None:
    different, covered = share("steps", 100, truth=3.0, protocol={**SHORT, "level": LEVEL})
    assert different == 1.0
    assert covered >= 0.94


def recorder(name: str, seconds: float, clock: FakeClock, order: list[str]) -> Loader:
    @contextmanager
    def load() -> Generator[Action]:
        order.append(f"load {name}")

        def action() -> None:
            order.append(name)
            clock.advance(seconds)

        try:
            yield action
        finally:
            order.append(f"free {name}")

    return load


def test_every_round_loads_anew_and_pairs_go_both_ways() -> None:
    clock, order = FakeClock(), list[str]()
    sides = [recorder(name, seconds, clock, order) for name, seconds in (("a", 0.004), ("b", 0.001))]
    found = compare(sides[0], sides[1], LatencyProtocol(n_warmup=0, n_pairs=2, block=2), clock=clock)
    assert order.count("load a") == order.count("free b") == 10
    assert len({tuple(order[i : i + 2]) for i, entry in enumerate(order) if entry.startswith("load")} - {()}) > 2
    rounds = " ".join(order).replace("load ", "load_").replace("free ", "free_").split("load_")
    timed = [part.split()[1:13] for part in rounds if len(part.split()) > 12][1:]
    assert {"".join(runs[:12]) for runs in timed} <= {"aaabbbbbbaaa", "bbbaaaaaabbb"}
    assert len({"".join(runs[:3]) for runs in timed}) == 2
    assert len(found.a.samples_ms) == len(found.b.samples_ms) == 40
    assert found.ratio.value == pytest.approx(4.0)
    assert found.ratio.n == 10
    assert found.is_stable
    assert found.differs


def test_the_same_seed_gives_the_same_order() -> None:
    def order_of(seed: int) -> list[str]:
        clock, order = FakeClock(), list[str]()
        sides = [recorder(name, 0.001, clock, order) for name in "ab"]
        compare(sides[0], sides[1], LatencyProtocol(seed=seed), clock=clock)
        return order

    assert order_of(1) == order_of(1)
    assert order_of(1) != order_of(2)


@given(
    seconds=st.floats(1e-9, 1e4), limit=st.floats(1e-6, 100.0), n_rounds=st.integers(5, 30),
    n_pairs=st.integers(1, 20), block=st.integers(1, 9), max_repeats=st.integers(30, 2000),
)  # fmt: skip
def test_a_schedule_keeps_its_limits(
    seconds: float, limit: float, n_rounds: int, n_pairs: int, block: int, max_repeats: int
) -> None:
    protocol = LatencyProtocol(seconds=limit, n_rounds=n_rounds, n_pairs=n_pairs, block=block, max_repeats=max_repeats)
    found = plan(protocol, seconds=seconds)
    assert 5 <= found.n_rounds <= n_rounds
    assert 1 <= found.n_pairs <= n_pairs
    assert 1 <= found.block <= block
    n_runs = found.n_rounds * found.n_pairs * found.block
    assert n_runs <= max_repeats
    took = seconds * found.n_rounds * found.n_pairs * (found.block + 1)
    assert took <= 2 * limit * (1 + 1e-9) or (found.block, found.n_pairs) == (1, 1)
    asked = (n_rounds, n_pairs, block) == (found.n_rounds, found.n_pairs, found.block)
    assert asked == (not found.cut_by)


def test_limits_that_cut_it_short_are_named() -> None:
    machine = NoisyMachine("heavy_tails", 1)
    found = compare(machine.side(5.0), machine.side(5.0), LatencyProtocol(max_repeats=50), clock=machine.clock)
    assert (found.a.stopped_by, len(found.a.samples_ms), len(found.b.samples_ms)) == ("repeats", 50, 50)
    start = machine.clock()
    found = compare(machine.side(5.0), machine.side(5.0), LatencyProtocol(seconds=0.5), clock=machine.clock)
    assert machine.clock() - start < 3
    assert found.a.stopped_by == "time"
    assert not found.is_stable


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_the_middle_ignores_a_wild_value_among_three_or_more(values: list[float]) -> None:
    tolerance = 1e-6
    assert min(values) - tolerance <= middle(values) <= max(values) + tolerance
    if len(values) >= 3:
        assert middle([*values, 1e300]) <= max(values) + tolerance
