"""This file says in words what a budget comes to for each file on each engine, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dwindle.artifact import Artifact
from dwindle.bench.budget import Budget, Verdict, metric_of, worst
from dwindle.bench.measurement import AT_LEAST, LATENCY, NO_ENGINE, Estimate, Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What came of one bound.

    Attributes:
        bound: name of the metric.
        limit: in the metric's unit.
        verdict: what the measurements say.
        measured: what it rests on; None where nothing was measured.
        estimate: the figure that nobody measured; it decides nothing.
    """

    bound: str
    limit: float
    verdict: Verdict
    measured: Measurement | None = None
    estimate: Estimate | None = None

    @property
    def asked(self) -> str:
        """What is asked for, with its unit: `latency at most 5 ms`; without it for a metric of yours."""
        metric = metric_of(self.bound)
        if metric is None:
            return f"{self.bound} {self.limit:g}"
        return f"{self.bound} at {'most' if metric.better < 0 else 'least'} {_with_unit(self.limit, metric.unit)}"

    def words(self) -> str:
        """Return the verdict with its figures: `met: 3.1 ms [3, 3.2]`."""
        if self.measured is not None:
            m = self.measured
            unit = m.metric.unit
            interval = "" if m.low == m.high else f" [{_bare(m.low, unit)}, {_bare(m.high, unit)}]"
            least = "at least " if m.conditions.get(AT_LEAST) == "yes" else ""
            return f"{self.verdict.value}: {least}{_with_unit(m.value, unit)}{interval}{self._hint}"
        if self.estimate is not None:
            figure = f"{self.estimate.value:.3g} {self.estimate.metric.unit}"
            return f"{self.verdict.value}: not measured; an estimate ({figure}) decides nothing"
        return f"{self.verdict.value}: not measured"

    @property
    def _hint(self) -> str:
        """What decides a bound on a mean that a few slow runs pull up."""
        m = self.measured
        is_pulled = m is not None and m.metric == LATENCY and m.conditions.get("unstable") == "yes"
        if not is_pulled or self.verdict is not Verdict.UNDECIDED:
            return ""
        return "; unstable: bound max_latency_median, which single slow runs do not move"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One file on one engine.

    Attributes:
        artifact: sha256 of the file.
        name: of the file; its first digits where it is not known.
        runtime: name of the engine; `none` where none ran it.
        rulings: one for each bound, in the budget's order.
    """

    artifact: str
    name: str
    runtime: str
    rulings: tuple[Ruling, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of the rulings."""
        return worst(ruling.verdict for ruling in self.rulings)


def judge_files(
    budget: Budget,
    measurements: Sequence[Measurement],
    *,
    files: Iterable[Artifact] = (),
    estimates: Mapping[str, Sequence[Estimate]] | None = None,
) -> tuple[Judged, ...]:
    """Return what came of `budget` for each file and engine.

    Args:
        budget: the bounds.
        measurements: of any number of files and engines.
        files: give the names.
        estimates: by sha256 of the file, of what was not measured; none of them decides anything.
    """
    names = {file.sha256: file.path.name for file in files}
    found: list[Judged] = []
    for (file, engine), verdicts in budget.judge_each(measurements).items():
        own = [m for m in measurements if m.artifact == file and m.runtime in {engine, NO_ENGINE}]
        rulings = tuple(
            Ruling(
                bound=name,
                limit=budget.bounds[name],
                verdict=verdict,
                measured=_decisive(budget, own, wanted=(name, verdict)),
                estimate=next((e for e in (estimates or {}).get(file, ()) if e.metric.name == name), None),
            )
            for name, verdict in verdicts.items()
        )
        found.append(Judged(artifact=file, name=names.get(file, file[:8]), runtime=engine, rulings=rulings))
    return tuple(found)


def unmeasured(budget: Budget, file: Artifact, engine: str) -> Judged:
    """Return what came of `budget` for a file that `engine` did not run: every bound is undecided."""
    rulings = tuple(Ruling(bound=name, limit=limit, verdict=Verdict.UNDECIDED) for name, limit in budget.bounds.items())
    return Judged(artifact=file.sha256, name=file.path.name, runtime=engine, rulings=rulings)


def _bare(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value:,.0f}"
    return f"{100 * value if unit == 'fraction' else value:.4g}"


def _with_unit(value: float, unit: str) -> str:
    return f"{_bare(value, unit)} {'%' if unit == 'fraction' else unit}".rstrip()


def _decisive(budget: Budget, own: Sequence[Measurement], *, wanted: tuple[str, Verdict]) -> Measurement | None:
    """Return the first measurement of a metric that by itself leads to the verdict."""
    name, verdict = wanted
    same = [m for m in own if m.metric.name == name]
    return next((m for m in same if budget.verdicts([m])[name] is verdict), None)
