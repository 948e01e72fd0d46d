"""This file writes the Markdown page of a study: what was run, tables beside the published ones, claims judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from dwindle.bench.ledger import Entry
from dwindle.errors import StudyError
from dwindle.studies.advised import advice_of
from dwindle.studies.asked import Asked
from dwindle.studies.claims import RULE_OF_CLAIMS, Judged, JudgedCondition, Ruling, judge
from dwindle.studies.heatmaps import heatmap
from dwindle.studies.matching import BelowFloor, below_floor, spots_of
from dwindle.studies.on_devices import devices_table
from dwindle.studies.outcome import TIMED, Outcome
from dwindle.studies.plan import Node
from dwindle.studies.results import Finding, Results, Variant, failures_of, plan_of, planned, variants_of
from dwindle.studies.shown import HEATMAP, Quantity, Side, Table
from dwindle.studies.study import Study
from dwindle.studies.tables import Cell, FilledTable, Heading, Row, figure_words, fill

MOST_COLUMNS: Final = 9
"""A wider table puts the published figure behind ours instead of beside it."""
LEGEND: Final = (
    "Ours: the mean over the seeds, each a training from scratch, with its 95 % interval over trainings and test "
    "examples together; with one seed the interval is over test examples alone. Sizes, counts and multipliers are "
    "exact for each seed: their brackets hold the least and the greatest."
)
LITERATURE: Final = "What the literature advises, held against these files:"
OF_TIMES: Final = "Brackets of times and speed-ups hold the 95 % intervals of all seeds."
_UNITS: Final[Mapping[Quantity, str]] = {
    "accuracy": " %",
    "accuracy_drop": " points",
    "size_bytes": " bytes",
    "onnx_bytes": " bytes",
    "zipped_bytes": " bytes",
    "test_seconds": " s",
    "test_cpu_seconds": " s",
    "seconds_per_epoch": " s",
    "speedup": " times",
    **dict.fromkeys(("top5_accuracy", "precision", "recall", "f1", "dequantize_share"), " %"),
    "latency_ms": " ms",
    "memory_bytes": " bytes",
    "energy_mj": " mJ",
    "estimated_energy_mj": " mJ",
}


def study_page(study: Study, entries: Sequence[Entry], *, made_from: str = "") -> str:
    """Return the page of `study` as Markdown; it says nothing that is not in the ledger or in the study.

    Args:
        study: whose tables and claims.
        entries: of its ledger, in any order.
        made_from: a sentence for the head of the page: where the figures come from.

    Raises:
        StudyError: there is no outcome, or one that cannot be read.
        SettingError: the study lacks a preset that outcomes were made for.
    """
    variants = variants_of(entries)
    if not variants:
        raise StudyError(f"the ledger holds no outcome of study {study.name}; run `dwindle study run {study.name}`")
    parts = [f"# {study.title}", f"{study.source}."]
    parts += [made_from] if made_from else []
    plans = {variant: plan_of(study, variant, entries) for variant in variants}
    results = {variant: Results.of(entries, variant, nodes=plans[variant]) for variant in variants}
    parts += ["## What was run", *_what_was_run(study, results, plans)]
    if failures := failures_of(entries):
        parts += ["Failed, and not made since:", "\n".join(f"- {_plain(failure)}" for failure in failures)]
    if study.differences:
        parts += ["## What is done otherwise than in the paper", "\n".join(f"- {d}" for d in study.differences)]
    for variant in variants:
        parts += _of_variant(study, results[variant])
    return "\n\n".join(parts) + "\n"


def _name(variant: Variant) -> str:
    return f"Preset {variant.preset}" + (", as published" if variant.is_as_published else "")


def _what_was_run(
    study: Study, results: Mapping[Variant, Results], plans: Mapping[Variant, Sequence[Node]]
) -> Iterator[str]:
    head = ["preset", "data", "networks", "seeds", "outcomes", "epochs", "hours of training"]
    rows = [
        (_name(variant).removeprefix("Preset "), *_counted(study, data, found=found, plan=plans[variant]))
        for variant, found in results.items()
        for data in study.data
        if any(outcome.data == data for outcome in found.outcomes)
    ]
    yield _table(head, rows, n_left=3)
    every = [outcome for found in results.values() for outcome in found.outcomes]
    days = sorted({outcome.time.date().isoformat() for outcome in every})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    machines = "; ".join(_named(every, "machine"))
    yield f"Recorded {when} with dwindle {', '.join(_named(every, 'version'))}. Machine: {machines}."
    for variant, found in results.items():
        yield f"{_name(variant)}: {study.preset(variant.preset).about}"
        if variant.is_as_published and study.as_published.about:
            yield f"As published: {study.as_published.about}"
        if found.n_outdated:
            yield f"{_name(variant)}: {_count(found.n_outdated, 'outcome')} made by settings other than those of today."


def _counted(study: Study, data: str, *, found: Results, plan: Sequence[Node]) -> tuple[str, ...]:
    """Return networks, seeds, outcomes (of those planned), epochs and hours on one data set."""
    nodes = [node for node in plan if node.case.data == data]
    ours = planned(found, nodes)
    networks = [name for name in study.networks if any(outcome.network == name for outcome in ours)]
    epochs = sum(outcome.exact("epochs") or 0.0 for outcome in ours)
    hours = sum(outcome.seconds_trained for outcome in ours) / 3600.0
    seeds = ", ".join(str(seed) for seed in sorted({outcome.seed for outcome in ours}))
    return (data, ", ".join(networks), seeds, f"{len(ours)} of {len(nodes)}", f"{epochs:,.0f}", f"{hours:.1f}")


def _named(outcomes: Iterable[Outcome], name: str) -> list[str]:
    return sorted({_plain(outcome.entry.get(name, "not recorded")) for outcome in outcomes})


def _of_variant(study: Study, results: Results) -> Iterator[str]:
    filled = [(table, fill(table, study, results)) for table in study.tables]
    yield f"## {_name(results.variant)}: tables"
    has_times = any(heading.quantity in TIMED for _, figures in filled for heading in figures.headings)
    yield f"{LEGEND} {OF_TIMES}" if has_times else LEGEND
    for table, figures in filled:
        if not figures.is_empty:
            yield f"### {_title(figures)}"
            yield from _table_part(study, table, figures=figures, results=results)
    yield from _heatmaps(study, results)
    if (on_devices := devices_table(study, results)) is not None:
        yield f"### {on_devices.title}"
        yield on_devices.about
        yield _table(on_devices.header, on_devices.rows, n_left=1)
        yield from on_devices.notes
    if absent := [_title(figures) for _, figures in filled if figures.is_empty]:
        yield f"Nothing was run of: {'; '.join(absent)}."
    yield from _advice(study, results)
    yield from _claims(study, results)


def _claims(study: Study, results: Results) -> Iterator[str]:
    """Yield what the figures say of each claim."""
    if not study.claims:
        return
    yield f"## {_name(results.variant)}: claims"
    yield RULE_OF_CLAIMS
    judged = [judge(claim, study, results) for claim in study.claims]
    for is_ours, whose in ((False, "What the paper concludes:"), (True, "What we claim:")):
        lines = [_claim(one) for one in judged if one.claim.is_ours is is_ours and one.ruling is not Ruling.NOT_RUN]
        if lines:
            yield whose
            yield "\n".join(lines)
    if absent := [one.claim.text for one in judged if one.ruling is Ruling.NOT_RUN]:
        yield f"Nothing was run of what decides: {' '.join(absent)}"


def _heatmaps(study: Study, results: Results) -> Iterator[str]:
    figures = [figure for figure in study.figures if figure.kind == HEATMAP]
    for found in (heatmap(Asked(figure=figure, study=study, results=results)) for figure in figures):
        if found.rows:
            yield f"### {found.title}"
            yield f"{found.about} {found.note}".strip()
            rows = [(name, *(cell.words for cell in cells)) for name, cells in found.rows]
            yield _table(["", *found.classes], rows, n_left=1)


def _advice(study: Study, results: Results) -> Iterator[str]:
    """Yield what the outcomes advise, in the words of the HTML page."""
    given = advice_of(study, results)
    if given:
        yield f"## {_name(results.variant)}: what to use when"
    for advice in given:
        if len(given) > 1:
            yield f"### {_plain(advice.about)}"
        yield _plain(advice.paragraph)
        if advice.tested:
            yield LITERATURE
            yield "\n".join(
                f"- **{one.verdict.upper()}** {one.text} ({one.source}) {_plain(one.figures)}." for one in advice.tested
            )


def _title(table: FilledTable) -> str:
    is_published = table.id.replace(".", "").isdigit()  # 3, or 4.3
    return f"Table {table.id}. {table.title}" if is_published else table.title


def _table_part(study: Study, table: Table, *, figures: FilledTable, results: Results) -> Iterator[str]:
    yield " ".join(text for text in (figures.about, figures.published_about, _size(figures)) if text)
    shown = [
        row for row in figures.rows if any(cell.value is not None or cell.published is not None for cell in row.cells)
    ]
    has_n = len({_n_seeds(row) for row in shown} - {0}) > 1
    n_left = len(figures.row_titles)
    is_beside = n_left + has_n + sum(1 + h.has_published for h in figures.headings) <= MOST_COLUMNS
    head = [*figures.row_titles, *(["n"] if has_n else [])]
    for heading in figures.headings:
        head += _head(heading, is_beside=is_beside)
    rows: list[list[str]] = []
    for row in shown:
        texts = [*row.names, *([str(_n_seeds(row) or "-")] if has_n else [])]
        for cell, heading in zip(row.cells, figures.headings, strict=True):
            texts += _texts(cell, heading, n_seeds=_n_seeds(row), is_beside=is_beside)
        rows.append(texts)
    yield _table(head, rows, n_left=n_left)
    if absent := _first_names(figures.rows, shown):
        yield f"Not run: {', '.join(absent)}."
    if below := _below(study, table, results):
        yield f"† {'; '.join(map(_floor, below))}: the drop means nothing."


def _n_seeds(row: Row) -> int:
    return max(cell.n_seeds for cell in row.cells)


def _first_names(rows: Sequence[Row], shown: Sequence[Row]) -> list[str]:
    """Return what the rows that are not shown are called, by their first name alone where none with it is shown."""
    firsts = {row.names[0] for row in shown}
    absent = (row for row in rows if row not in shown)
    return list(dict.fromkeys(" ".join(row.names) if row.names[0] in firsts else row.names[0] for row in absent))


def _floor(below: BelowFloor) -> str:
    return f"dense below the floor of {below.floor:g} ({below.case.name}: {below.accuracy:.2f})"


def _size(figures: FilledTable) -> str:
    seeds = sorted({cell.n_seeds for row in figures.rows for cell in row.cells if cell.n_seeds})
    examples = sorted({cell.n_examples for row in figures.rows for cell in row.cells if cell.n_examples})
    trained = f"n = {' or '.join(map(str, seeds))} seed{'s' * (seeds[-1] > 1)}"
    return f"{trained}, {' or '.join(f'{n:,}' for n in examples)} test examples." if examples else f"{trained}."


def _head(heading: Heading, *, is_beside: bool) -> list[str]:
    if not heading.has_published:
        return [heading.title]
    return [heading.title, "published"] if is_beside else [f"{heading.title} (published)"]


def _texts(cell: Cell, heading: Heading, *, n_seeds: int, is_beside: bool) -> list[str]:
    ours = _ours(cell, heading, n_seeds=n_seeds)
    if not heading.has_published:
        return [ours]
    published = "-" if cell.published is None else figure_words(cell.published, heading, is_published=True)
    if is_beside:
        return [ours, published]
    return [ours if cell.published is None else f"{ours} ({published})"]


def _ours(cell: Cell, heading: Heading, *, n_seeds: int) -> str:
    if cell.value is None or cell.low is None or cell.high is None:
        return "-"
    value, low, high = (figure_words(x, heading) for x in (cell.value, cell.low, cell.high))
    text = value if cell.is_exact and low == high else f"{value} [{low}, {high}]"
    text += f" n = {cell.n_seeds}" if cell.n_seeds < n_seeds else ""
    return f"{text} †" if cell.is_below_floor else text


def _below(study: Study, table: Table, results: Results) -> tuple[BelowFloor, ...]:
    """Return the cases of a table whose dense network stays below its floor, where a drop is taken against it."""
    preset = study.preset(results.variant.preset)
    spots = [
        spot
        for column in table.columns
        for stage in ([column.stage] if column.stage else table.stages)
        for spot in spots_of(study, preset, stage=stage, quantity=column.quantity, where={**table.where, **column.at})
        if results.mean(column.quantity, [spot]) is not None
    ]
    return below_floor(study, results, spots)


def _claim(judged: Judged) -> str:
    """Return a claim, and in one sentence the figures that decide it; what all sides share is said once."""
    sides = [side for c in judged.conditions for side in (c.condition.left, c.condition.right) if side is not None]
    what = {f"{side.quantity.replace('_', ' ')} of {side.stage}" for side in sides}
    shared = {key: value for key, value in sides[0].where.items() if all(s.where.get(key) == value for s in sides)}
    about = f"{what.pop()}{_where(shared, {}, in_brackets=True)}: " if len(what) == 1 else ""
    figures = "; ".join(_condition(one, shared if about else None) for one in judged.conditions)
    return f"- **{judged.ruling.value}** {judged.claim.text} {(about + figures)[:1].upper()}{(about + figures)[1:]}."


def _condition(judged: JudgedCondition, shared: Mapping[str, Any] | None) -> str:
    condition = judged.condition
    right = f"{condition.bound:g}" if condition.right is None else _side(condition.right, judged.right, shared)
    reasons: list[str] = []
    if judged.difference is not None:
        reasons.append(f"difference {_finding(judged.difference, condition.left.quantity)}")
    reasons += [f"n = {found.n_seeds}"] if (found := judged.difference or judged.left) is not None else []
    reasons += [f"{_count(judged.n_missing, 'outcome')} missing"] if judged.n_missing else []
    reasons += ["dense below its floor"] if judged.is_below_floor else []
    text = f"{_side(condition.left, judged.left, shared)} {condition.relation} {right}: {judged.ruling.value.lower()}"
    return f"{text} ({', '.join(reasons)})" if reasons else text


def _side(side: Side, found: Finding | None, shared: Mapping[str, Any] | None) -> str:
    figure = "(not run)" if found is None else _finding(found, side.quantity)
    if shared is None:
        return f"{side.quantity.replace('_', ' ')} of {side.stage}{_where(side.where, {}, in_brackets=True)} {figure}"
    return f"{_where(side.where, shared, in_brackets=False)} {figure}".lstrip()


def _where(where: Mapping[str, Any], shared: Mapping[str, Any], *, in_brackets: bool) -> str:
    text = ", ".join(_place(key, value) for key, value in where.items() if key not in shared)
    return f" ({text})" if in_brackets and text else text


def _place(key: str, value: Any) -> str:
    names = [str(item) for item in (cast("list[Any]", value) if isinstance(value, list) else [value])]
    words = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{key} {words}" if all(name.isdigit() for name in names) else words


def _finding(found: Finding, quantity: Quantity) -> str:
    digits = 0 if found.is_exact and abs(found.value) >= 1000 else 2
    value, low, high = (f"{x:,.{digits}f}" for x in (found.value, found.low, found.high))
    return (value if low == high else f"{value} [{low}, {high}]") + _UNITS.get(quantity, "")


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, n_left: int) -> str:
    """Return a Markdown table; the first `n_left` columns to the left, the others to the right."""
    lines = [head, ["---" if i < n_left else "--:" for i in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(_plain(text) for text in line) + " |" for line in lines)


def _plain(text: object) -> str:
    """Return `text` on one line, without what Markdown or a browser would read as markup."""
    return " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
