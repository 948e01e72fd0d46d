"""This file estimates, of the files of a job, the energy and the arena that no sensor and no engine told.

An estimate is an entry of its own kind in the ledger, so nobody can take it for a measurement; what was measured of a
file is not estimated beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from dwindle.artifact import Artifact
from dwindle.bench.energy.estimate import estimated_energy
from dwindle.bench.file_needs import needs_of
from dwindle.bench.ledger import Ledger
from dwindle.bench.measure import Measured, Role
from dwindle.bench.measurement import ARENA, ENERGY, Estimate, Metric
from dwindle.errors import DwindleError
from dwindle.job.job import Job

ESTIMATE: Final = "estimate"
"""Kind of the ledger's entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmeasured:
    """What can be said of a metric of a file that nobody measured: an estimate, or why there is none."""

    role: Role
    file: Artifact
    metric: Metric
    said: Estimate | str

    def to_plain(self) -> dict[str, Any]:
        """Return the entry of the ledger: `value` and `method`, or `unknown`, the reason."""
        said = self.said
        figure = {"unknown": said} if isinstance(said, str) else {"value": said.value, "method": said.method}
        return {"role": self.role, "artifact": self.file.sha256, "metric": asdict(self.metric), **figure}


def estimate_files(
    job: Job, ledger: Ledger, every: Sequence[Measured], *, reference: Artifact
) -> tuple[Unmeasured, ...]:  # fmt: skip
    """Estimate what `job` asks for and was not measured of its files and of the dense one; record and return it."""
    sides = [side for measured in every for side in (measured, measured.dense) if side is not None]
    known = {(m.artifact, m.metric.name) for side in sides for m in side.measurements}
    files: list[tuple[Role, Artifact]] = [("dense", reference), *(("compressed", file) for file in every[0].artifacts)]
    asked = {ENERGY: job.measures_energy, ARENA: job.measures_arena}
    found = tuple(
        Unmeasured(role=role, file=file, metric=metric, said=_said(_MAKERS[metric], file))
        for metric in asked
        for role, file in files
        if asked[metric] and (file.sha256, metric.name) not in known
    )
    for one in found:
        ledger.append(ESTIMATE, one.to_plain())
    return found


def _said(make: Callable[[Artifact], Estimate | str], file: Artifact) -> Estimate | str:
    try:
        return make(file)
    except DwindleError as error:  # an estimate that cannot be made must not cost what was measured
        return str(error).replace(str(file.path), file.path.name)


def _energy(file: Artifact) -> Estimate:
    return estimated_energy(file.path).estimate


def _arena(file: Artifact) -> Estimate | str:
    needs = needs_of(file)
    return needs.arena or needs.unknown or "the file does not tell it"


_MAKERS: Final[Mapping[Metric, Callable[[Artifact], Estimate | str]]] = {ENERGY: _energy, ARENA: _arena}
