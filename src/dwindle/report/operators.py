"""This file shows where the time of a call goes before and after: paired bars by class of operation, and words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from dwindle.bench.probes.operator_times import OperatorProfile
from dwindle.bench.profiled import Profiled
from dwindle.errors import DwindleError
from dwindle.report.comparison import best, interval_of
from dwindle.report.facts import Data, Facts, items, number, table, text
from dwindle.report.layers import Bar
from dwindle.report.slow_reasons import Pair, headline, pair_of, reasons
from dwindle.report.words import fixed, metric_value
from dwindle.settings import from_plain

N_SLOWEST = 5


@dataclass(frozen=True, slots=True)
class Slow:
    """One of the slowest operations, as text."""

    file: str
    kind: str
    name: str
    ms: str
    share: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """What the report shows of two profiles.

    Attributes:
        bars: a class of operations each, the dense file's time above the compressed one's.
        headline: what became of a call.
        words: why, a sentence or two each.
        about: engine, runs, coverage.
        slowest: of both files.
        problem: why there is nothing to show, though a profile was tried.
    """

    bars: tuple[Bar, ...] = ()
    headline: str = ""
    words: tuple[str, ...] = ()
    about: str = ""
    slowest: tuple[Slow, ...] = ()
    problem: str = ""


def operations_of(facts: Facts) -> Operations | None:
    """Return what the profiles say; None where the ledger holds none."""
    if not facts.profiles:
        return None
    problems = [text(entry, "problem") for entry in facts.profiles.values() if entry.get("problem")]
    before, after = (_profiled(facts.profiles.get(role)) for role in ("dense", "compressed"))
    if before is None or after is None:
        return Operations(problem="; ".join(problems) or "the ledger does not hold both profiles in full")
    features = tuple(map(str, items(table(facts.run, "machine"), "cpu_features")))
    pair = pair_of(before, after, cpu_features=features)
    return Operations(
        bars=bars_of(before.profile, after.profile),
        headline=_headline(facts, pair),
        words=tuple(reason.words for reason in reasons(pair)),
        about=_about(before.profile, after.profile),
        slowest=(*_slowest("dense", before.profile), *_slowest("compressed", after.profile)),
    )


def _headline(facts: Facts, pair: Pair) -> str:
    """Say what became of a call: as it was timed in turn, where it was, which a few calls beside a profile are not."""
    speedup = best(facts, "compressed", "speedup")
    value = number(speedup or {}, "value")
    if speedup is None or value is None:
        return headline(pair)
    timed = f"Timed in turn, the compressed file is {metric_value(value, 'x')} {interval_of(speedup)}".rstrip()
    return f"{timed} as fast as the dense one. The profile, taken of other calls, says where the time goes."


def bars_of(before: OperatorProfile, after: OperatorProfile) -> tuple[Bar, ...]:
    """Return a pair of bars for each class of operations, the one with the longest bar first, all to one scale."""
    times = [{found.group: found.ms for found in profile.classes} for profile in (before, after)]
    pairs = [(g, times[0].get(g, 0.0), times[1].get(g, 0.0)) for g in dict.fromkeys([*times[0], *times[1]])]
    pairs = sorted(((g, a, b) for g, a, b in pairs if max(a, b) > 0), key=lambda pair: -max(pair[1:]))
    longest = max((max(a, b) for _, a, b in pairs), default=1.0)
    return tuple(_bar(group, a, b, longest) for group, a, b in pairs)


def _bar(group: str, before: float, after: float, longest: float) -> Bar:  # ruff: ignore[too-many-positional-arguments]
    words = f"{metric_value(before, 'ms')} → {metric_value(after, 'ms')}"
    ratio = metric_value(before / after, "x") if before > 0 and after > 0 else ""
    return Bar(group, group, 100 * before / longest, 100 * after / longest, words, ratio)


def _profiled(entry: Data | None) -> Profiled | None:
    if entry is None:
        return None
    plain = {key: value for key, value in entry.items() if key != "role"}
    try:
        found = from_plain(Profiled, cast("Mapping[str, Any]", plain), where="profile")
    except (DwindleError, OverflowError):
        return None
    return (
        found if all(math.isfinite(operation.ms + operation.share) for operation in found.profile.operations) else None
    )


def _about(before: OperatorProfile, after: OperatorProfile) -> str:
    shares = " and ".join(f"{fixed(100 * profile.coverage, 1)} %" for profile in (before, after))
    alone = " and ".join(f"{fixed(100 * profile.coverage_of_operations, 1)} %" for profile in (before, after))
    return (
        f"{after.runtime}'s own profile of {after.n_calls} calls of each file, batch {after.batch}, threads: "
        f"{after.n_threads}. The classes explain {shares} of the time of these calls, operations alone {alone}. "
        "The class engine is the engine's run less its operations, the writing of the profile among it."
    )


def _slowest(file: str, profile: OperatorProfile) -> list[Slow]:
    return [
        Slow(
            file,
            f"{found.kind}{f', {found.numbers}' if found.numbers else ''}",
            found.name,
            metric_value(found.ms, "ms"),
            f"{fixed(100 * found.share, 1)} %",
        )
        for found in profile.operations[:N_SLOWEST]
    ]
