"""This file makes the page of the comparison across engines from its ledger alone.

python benchmarks/engines/page.py LEDGER
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from dwindle.bench.ledger import Entry, Ledger
from dwindle.report.words import human_bytes, metric_value, significant

ENTRY = "across_engines"
"""Kind of the ledger entry that holds a whole comparison."""
TARGET = 3.0
"""Times faster than its own fp32 that the fastest int8 file is wanted to be."""
HEADS = (
    *("#", "file", "engine", "size", "median latency"),
    *("times faster", "accuracy", "top-1 gap", "same answer", "largest difference"),
)
NAMES = itemgetter("file", "engine")

Row = Mapping[str, Any]


def page(entries: Sequence[Entry], *, made_from: str) -> str:
    """Return the page: the newest comparison of each task and width of weights."""
    newest = {(e.data["task"], e.data["weights"], e.data["n_threads"]): e.data for e in entries if e.kind == ENTRY}
    lines = ["# One network on every engine", "", made_from, "", *_preface()]
    for data in newest.values():
        lines += ["", *_section(data)]
    return "\n".join([*lines, ""])


def _preface() -> list[str]:
    return [
        "Each file is timed in turn with the fp32 file of its own engine (the number behind #), and that one with the",
        "first row; the interval is that of the ratio, at 95 %. Parity compares with what onnxruntime answers for the",
        ".onnx file of the same name, on the same test images: by how many points its top-1 accuracy is higher (0.1 is",
        "allowed), the share of equal answers, and the largest difference between two outputs. Torch computes an int8",
        "file in floats, rounded as its integers are: it says what they answer, not how fast they are.",
    ]


def _section(data: Mapping[str, Any]) -> list[str]:
    rows: list[Row] = data["compared"]["rows"]
    measured = [row for row in rows if not row.get("problem")]
    machine = next((row["machine"] for row in measured), "unknown")
    threads = f"{data['n_threads']} thread{'' if data['n_threads'] == 1 else 's'}"
    title = f"## {data['task']}: fp32 and static int8 ({data['weights']}-bit weights)"
    lines = [title, "", f"Machine: {machine}; {threads}, batches of one example.", "", *_table(rows), ""]
    lines += [f"- {sentence}" for sentence in _verdicts(rows)]
    return lines


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [
        f"| {' | '.join(HEADS)} |",
        "|--:|---|---|--:|--:|---|---|--:|--:|--:|",
    ]
    for number, row in enumerate(rows, start=1):
        head = [str(number), row["file"], row["engine"], human_bytes(row["size_bytes"])]
        if row.get("problem"):
            lines.append(f"| {' | '.join(head)} | not measured | | | | | |")
        else:
            lines.append(f"| {' | '.join([*head, *_figures(row, rows)])} |")
    return lines


def _figures(row: Row, rows: Sequence[Row]) -> list[str]:
    latency = row["measurements"].get("latency_median")
    parity = row["parity"]
    gap = "reference" if parity is None else _of(row, "top1_gap") + (" **flagged**" if parity["flagged"] else "")
    largest = "" if parity is None or parity["largest"] is None else significant(parity["largest"], 2)
    return [
        "" if latency is None else metric_value(latency["value"], latency["unit"]),
        _faster(row, rows),
        _with_interval(row, "accuracy"),
        gap,
        _of(row, "top1_agreement"),
        largest,
    ]


def _faster(row: Row, rows: Sequence[Row]) -> str:
    if row["speedup"] is None:
        return ""
    number = next(n for n, other in enumerate(rows, start=1) if NAMES(other) == NAMES(row["baseline"]))
    ratio = row["speedup"]
    unstable = ", unstable" if ratio.get("conditions", {}).get("unstable") == "yes" else ""
    return f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] #{number}{unstable}"


def _verdicts(rows: Sequence[Row]) -> list[str]:
    said = [
        f"{row['file']} on {row['engine']} was not measured: {row['problem']}." for row in rows if row.get("problem")
    ]
    flagged = [_said(row) for row in rows if not row.get("problem") and row["parity"] and row["parity"]["flagged"]]
    said.append(f"Parity is missed by {', '.join(flagged)}." if flagged else "Parity is met in every row.")
    within = [row for row in rows if row.get("speedup") and _gained_by_integers(row)]
    if within:
        best = max(within, key=lambda row: row["speedup"]["value"])
        ratio = best["speedup"]
        met = "MET" if ratio["low"] >= TARGET else "NOT MET" if ratio["high"] < TARGET else "UNDECIDED"
        said.append(
            f"Most gained by int8: {_said(best)}, {ratio['value']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}] "
            f"its own fp32 (at least {TARGET:g}x: {met})."
        )
    timed = [row for row in rows if row.get("measurements", {}).get("latency_median")]
    if timed:
        fastest = min(timed, key=lambda row: row["measurements"]["latency_median"]["value"])
        said.append(f"Lowest median latency: {_said(fastest)}, {_of(fastest, 'latency_median')}.")
    return said


def _gained_by_integers(row: Row) -> bool:
    return row["engine"] == row["baseline"]["engine"] and Path(row["file"]).stem != Path(row["baseline"]["file"]).stem


def _said(row: Row) -> str:
    return f"{row['file']} on {row['engine']}"


def _of(row: Row, name: str) -> str:
    found = row["measurements"].get(name)
    return "" if found is None else metric_value(found["value"], found["unit"])


def _with_interval(row: Row, name: str) -> str:
    found = row["measurements"].get(name)
    if found is None:
        return ""
    low, high = (f"{100 * found[end]:.2f}" for end in ("low", "high"))
    return f"{_of(row, name)} [{low}, {high}]"


if __name__ == "__main__":
    print(page(Ledger(Path(sys.argv[1])).read(), made_from=f"Generated from `{Path(sys.argv[1]).name}`."))
