"""This file writes the report: one HTML file that holds all it shows, made from the ledger and from nothing else."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from dwindle.bench.ledger import Ledger
from dwindle.errors import LedgerError
from dwindle.report import comparison, confusion, curves, layers, story
from dwindle.report.advised_run import advice_of
from dwindle.report.bounds import budget_files_of, budget_of, judged_file
from dwindle.report.estimates import estimates_of
from dwindle.report.facts import Facts, LedgerEntry, gather, items, table, text
from dwindle.report.operators import operations_of
from dwindle.whole_file import write_whole


def write_report(ledger: Ledger, path: Path) -> Path:
    """Write the report on `ledger` to `path` and return `path`; the same ledger gives the same bytes.

    Raises:
        LedgerError: the ledger cannot be read, or `path` cannot be written; an earlier report stays whole.
    """
    page = render(ledger.read(), n_torn=len(ledger.torn))
    try:
        write_whole(path, page.encode())
    except OSError as error:
        raise LedgerError(
            f"the report {path} cannot be written ({error.strerror or error}); make room or choose another folder, "
            "then run again"
        ) from error
    return path


def render(entries: Iterable[LedgerEntry], *, n_torn: int = 0) -> str:
    """Return the report's HTML; `n_torn` lines of the ledger were cut off in the middle of a write."""
    return _template().render(_view(gather(entries), n_torn))


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("dwindle", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def _view(facts: Facts, n_torn: int) -> Mapping[str, Any]:
    budget_verdict, bounds = budget_of(facts)
    tensor_rows, n_tensors_left = layers.table_of(facts)
    return {
        "name": text(facts.run, "name"),
        "verdict": comparison.verdict_of(facts),
        "deployed": text(facts.run, "deployed"),
        "not_written": dict(table(facts.summary, "not_written")),
        "budget_verdict": budget_verdict,
        "bounds": bounds,
        "budget_files": budget_files_of(facts),
        "judged_file": judged_file(facts),
        "tiles": comparison.tiles_of(facts),
        "rows": comparison.rows_of(facts),
        "estimates": estimates_of(facts),
        "advice": advice_of(facts),
        "operations": operations_of(facts),
        "strips": layers.strips_of(facts),
        "overhead": layers.overhead_words(facts),
        "bars": layers.bars_of(facts),
        "tensor_rows": tensor_rows,
        "n_tensors_left": n_tensors_left,
        "histograms": layers.histograms_of(facts),
        "learning": curves.learning_charts(facts),
        "latency": curves.latency_charts(facts),
        "confusion": confusion.confusion_of(facts),
        "is_about_classes": comparison.judged_metric(facts) == "accuracy" or bool(facts.confusions),
        "trains": any(items(stage, "curve") for stage in facts.stages) or not facts.stages,
        "recipe": text(facts.run, "recipe_toml").strip(),
        "stages": story.stages_of(facts),
        "run_details": story.run_details(facts),
        "machine": story.machine_details(facts),
        "files": story.files_of(facts),
        "methods": story.method_of(facts),
        "missing": story.missing_from(facts),
        "remarks": [*_torn_words(n_torn), *facts.remarks],
    }


def _torn_words(n_torn: int) -> list[str]:
    if not n_torn:
        return []
    lines = "1 line of the ledger was" if n_torn == 1 else f"{n_torn:,} lines of the ledger were"
    return [f"{lines} cut off in the middle of a write; what it would have said is not here."]
