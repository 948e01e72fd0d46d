"""This file says how sparsity grows while a network trains: pure functions of the fraction of training that is done."""

from __future__ import annotations

from dataclasses import dataclass

from dwindle.errors import SettingError


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """The whole sparsity at once, after the fraction `begin` of the training steps."""

    begin: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.begin < 1:
            raise SettingError(f"Constant: begin is a fraction of the training in [0, 1), got {self.begin}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Polynomial:
    """Sparsity that grows fast at first and slowly at last, from `initial_sparsity` at `begin` to the target at `end`.

    Zhu and Gupta (2017), "To prune, or not to prune", eq. 1, has power 3.

    Attributes:
        power: exponent of the fraction still to go; 1 is a straight line.
        begin: fraction of the training steps before which nothing is pruned.
        end: fraction from which on the target holds; what follows is recovery.
        frequency: optimizer steps between two prunings.
        initial_sparsity: where the curve starts.
    """

    power: float = 3.0
    begin: float = 0.0
    end: float = 0.75
    frequency: int = 10
    initial_sparsity: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end <= 1:
            raise SettingError(
                f"Polynomial: begin and end are fractions of the training, 0 <= begin < end <= 1, "
                f"got begin={self.begin}, end={self.end}"
            )
        if not self.power > 0:
            raise SettingError(f"Polynomial: power must be positive, got {self.power}")
        if self.frequency < 1:
            raise SettingError(f"Polynomial: frequency counts optimizer steps from 1, got {self.frequency}")
        if not 0 <= self.initial_sparsity < 1:
            raise SettingError(f"Polynomial: initial_sparsity must be in [0, 1), got {self.initial_sparsity}")


Schedule = Constant | Polynomial


def sparsity_at(schedule: Schedule, fraction: float, *, target: float) -> float:
    """Return the sparsity after `fraction` (in [0, 1]) of the training: never falling, exactly `target` at the end.

    >>> [round(sparsity_at(Polynomial(end=1.0), f, target=0.8), 3) for f in (0, 0.2, 0.5, 1)]
    [0.0, 0.39, 0.7, 0.8]
    """
    if fraction < schedule.begin:
        return 0.0
    match schedule:
        case Constant():
            return target
        case Polynomial(power=power, begin=begin, end=end, initial_sparsity=initial):
            if fraction >= end or initial >= target:
                return target
            to_go = 1 - (fraction - begin) / (end - begin)
            return target + (initial - target) * to_go**power


def is_due(schedule: Schedule, step: int, *, n_steps: int) -> bool:
    """Say whether weights are pruned after optimizer step `step` of `n_steps`; 0 stands for "before the first".

    Due are every `frequency`-th step between begin and end, the first step at or past each of them, and the last step,
    so that the target is reached however short the training is.
    """
    here, before = step / n_steps, (step - 1) / n_steps
    crosses_begin = before < schedule.begin <= here
    match schedule:
        case Constant():
            return crosses_begin
        case Polynomial(begin=begin, end=end, frequency=frequency):
            crosses_end = before < end <= here
            return crosses_begin or crosses_end or (begin <= here < end and step % frequency == 0)


def next_sparsity(current: float, *, target: float, n_rounds: int) -> float:
    """Return the sparsity after the next of `n_rounds` prunings that each take the same share of what is left.

    Frankle and Carbin (2019), section 2: p^(1/n) of the weights stay in each of n rounds.

    >>> next_sparsity(0.0, target=0.75, n_rounds=2), next_sparsity(0.5, target=0.75, n_rounds=1)
    (0.5, 0.75)
    """
    if n_rounds <= 1 or current >= target:
        return target
    return 1 - (1 - current) * ((1 - target) / (1 - current)) ** (1 / n_rounds)
