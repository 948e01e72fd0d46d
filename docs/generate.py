"""Rebuild what is generated: orders.md, commands.md, the tables of all-of-dwindle.md, and results/ from the ledgers.

python docs/generate.py
"""

from __future__ import annotations

import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.tables import commands_page, fill

from dwindle.bench.ledger import Entry, Ledger
from dwindle.recipe.orders import orders_table
from dwindle.studies.markdown import study_page
from dwindle.studies.read import load_study
from dwindle.studies.run import OUTCOME

DOCS = Path(__file__).resolve().parent
UNITS = {"bytes": ",.0f", "x": ".2f", "fraction": ".4f", "points": ".2f", "ms": ".3f"}


def results_page(path: Path) -> str:
    """Return the page of one ledger: of the comparison or the study that is called as the file, else of a job."""
    entries = Ledger(path).read()
    made_from = f"Generated from `{path.name}` by `docs/generate.py`."
    if (script := DOCS.parent / "benchmarks" / path.stem / "page.py").exists():
        return runpy.run_path(str(script))["page"](entries, made_from=made_from)
    if any(entry.kind == OUTCOME for entry in entries):
        ours = next(DOCS.parent.glob(f"examples/*/{path.stem}.toml"), None)
        return study_page(load_study(path.stem if ours is None else ours), entries, made_from=made_from)
    return _job_page(path, entries)


def _job_page(path: Path, entries: Sequence[Entry]) -> str:
    """Return every measurement with its interval, n and runtime, and where it ran."""
    run = next(entry.data for entry in entries if entry.kind == "run")
    summary = [entry.data for entry in entries if entry.kind == "summary"][-1]
    machine = summary["machine"]
    lines = [f"# {run['name']}", "", f"Generated from `{path.name}` by `docs/generate.py`. Machine: {machine}.", ""]
    lines += [f"Baseline: {run['baseline']}.", "", "Wall time of each step (training included):", ""]
    lines += ["| step | seconds |", "|---|--:|"]
    stages = [entry.data for entry in entries if entry.kind == "stage"]
    lines += [f"| {stage['technique']} {_settings(stage['settings'])} | {_seconds(stage):,.0f} |" for stage in stages]
    lines += [
        "",
        "| metric | file | dense | compressed | 95 % interval | n | runtime |",
        "|---|---|--:|--:|---|--:|---|",
    ]
    lines += [_row(entry.data, entries) for entry in entries if _is_of_compressed(entry)]
    lines += ["", "```toml", run["recipe_toml"].strip(), "```", ""]
    return "\n".join(lines)


def _is_of_compressed(entry: Any) -> bool:
    return entry.kind == "measurement" and entry.data["role"] == "compressed"


def _settings(settings: Mapping[str, Any]) -> str:
    shown = {k: v for k, v in settings.items() if isinstance(v, int | float | str) and v != "layer"}
    return ", ".join(f"{key}={value}" for key, value in shown.items())


def _seconds(stage: Mapping[str, Any]) -> float:
    trained = sum(epoch["seconds"] for epoch in stage["curve"])
    return max(trained, stage["seconds"])


def _row(m: Mapping[str, Any], entries: Any) -> str:
    metric, form = m["metric"], UNITS.get(m["metric"]["unit"], ".4g")
    same = [e.data for e in entries if e.kind == "measurement" and e.data["metric"] == metric]
    dense = [data for data in same if data["role"] == "dense"]
    # A dense time that was taken in turn with this very file comes first.
    dense.sort(key=lambda data: data["conditions"].get("beside") != m["artifact"])
    before = format(dense[0]["value"], form) if dense else "-"
    interval = "exact" if m["low"] == m["high"] else f"[{format(m['low'], form)}, {format(m['high'], form)}]"
    unit = "" if metric["unit"] in metric["name"] else f" ({metric['unit']})"
    formats = {entry.data["sha256"]: entry.data["format"] for entry in entries if entry.kind == "artifact"}
    file = formats.get(m["artifact"], "")
    value = format(m["value"], form)
    return f"| {metric['name']}{unit} | {file} | {before} | **{value}** | {interval} | {m['n']:,} | {m['runtime']} |"


def pages() -> dict[str, str]:
    """Return every generated page that needs no ledger, by its name in docs/."""
    return {
        "orders.md": orders_table(),
        "commands.md": commands_page(),
        "all-of-dwindle.md": fill((DOCS / "all-of-dwindle.md").read_text(encoding="utf-8")),
    }


def main() -> None:
    """Write every page."""
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
    for ledger in sorted((DOCS / "results").glob("*.jsonl")):
        ledger.with_suffix(".md").write_text(results_page(ledger), encoding="utf-8")


if __name__ == "__main__":
    main()
