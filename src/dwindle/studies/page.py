"""This file writes the page of a study: one HTML file that holds all it shows, made from its ledger and file alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template

from dwindle.bench.ledger import Entry
from dwindle.errors import StudyError
from dwindle.report.advice import Advice
from dwindle.report.facts import text
from dwindle.report.words import duration
from dwindle.studies.advised import advice_of
from dwindle.studies.asked import Asked
from dwindle.studies.bubbles import bubbles
from dwindle.studies.cells import ClaimView, TableView, claim_view, table_view
from dwindle.studies.claims import RULE_OF_CLAIMS, Ruling, judge
from dwindle.studies.curves import learning_curves
from dwindle.studies.figures import Picture, against_axis, against_ratio
from dwindle.studies.heatmaps import Heatmap, heatmap
from dwindle.studies.on_devices import DevicesTable, devices_table
from dwindle.studies.outcome import Outcome
from dwindle.studies.plan import Node
from dwindle.studies.results import Results, Variant, failures_of, plan_of, planned, variants_of
from dwindle.studies.shown import HEATMAP
from dwindle.studies.stage_curves import stage_curves
from dwindle.studies.study import Study
from dwindle.studies.tables import fill
from dwindle.whole_file import write_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One figure of the headline."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What the page shows of one variant: a preset, run with our protocol or with the published one."""

    id: str
    name: str
    about: str
    tiles: tuple[Tile, ...]
    advice: tuple[Advice, ...]
    claims: tuple[ClaimView, ...]
    pictures: tuple[Picture, ...]
    heatmaps: tuple[Heatmap, ...]
    tables: tuple[TableView, ...]
    on_devices: DevicesTable | None
    empty_tables: tuple[str, ...]
    machines: tuple[str, ...]
    versions: tuple[str, ...]
    n_outdated: int
    missing: tuple[str, ...]


def write_study_page(study: Study, entries: Sequence[Entry], path: Path) -> Path:
    """Write the page of `study` as the ledger's `entries` tell it to `path`, and return `path`.

    The same entries give the same bytes.

    Raises:
        StudyError: an outcome cannot be read, or `path` cannot be written; an earlier page stays whole.
        SettingError: the study lacks a preset that outcomes were made for.
    """
    return write_page(path, render_study(study, entries))


def write_page(path: Path, page: str) -> Path:
    """Write the text `page` to `path`, and return `path`.

    Raises:
        StudyError: it cannot be written; an earlier page stays whole.
    """
    try:
        write_whole(path, page.encode())
    except OSError as error:
        raise StudyError(
            f"the page {path} cannot be written ({error.strerror or error}); make room or choose another folder"
        ) from error
    return path


def render_study(study: Study, entries: Sequence[Entry]) -> str:
    """Return the HTML of the page of `study`."""
    parts = [_part(study, entries, variant, number=i) for i, variant in enumerate(variants_of(entries), start=1)]
    return _template().render(
        study=study,
        parts=parts,
        failures=failures_of(entries),
        rule_of_claims=RULE_OF_CLAIMS,
    )


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("dwindle", "studies/templates"), PackageLoader("dwindle", "report/templates")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("study.html.j2")


def _part(study: Study, entries: Sequence[Entry], variant: Variant, *, number: int) -> Part:
    nodes = plan_of(study, variant, entries)
    results = Results.of(entries, variant, nodes=nodes)
    claims = [judge(claim, study, results) for claim in study.claims]
    tables = [fill(table, study, results) for table in study.tables]
    figures = [Asked(figure=figure, study=study, results=results) for figure in study.figures]
    abouts = (study.preset(variant.preset).about, study.as_published.about if variant.is_as_published else "")
    return Part(
        id=f"part-{number}",
        name=f"{variant.preset}{', as published' if variant.is_as_published else ''}",
        about=" ".join(about for about in abouts if about),
        tiles=(*_run_tiles(planned(results, nodes), nodes), *_claim_tiles([judged.ruling for judged in claims])),
        advice=advice_of(study, results),
        claims=tuple(claim_view(judged) for judged in claims),
        pictures=tuple(_picture(asked) for asked in figures if asked.figure.kind != HEATMAP),
        heatmaps=tuple(heatmap(asked) for asked in figures if asked.figure.kind == HEATMAP),
        tables=tuple(table_view(table) for table in tables if not table.is_empty),
        on_devices=devices_table(study, results),
        empty_tables=tuple(table.title for table in tables if table.is_empty),
        machines=_texts(results.outcomes, "machine"),
        versions=_texts(results.outcomes, "version"),
        n_outdated=results.n_outdated,
        missing=_missing(results.outcomes, nodes),
    )


def _picture(asked: Asked) -> Picture:
    match asked.figure.kind:
        case "against_ratio":
            return against_ratio(asked)
        case "against_axis":
            return against_axis(asked)
        case "curves":
            return learning_curves(asked)
        case "stage_curves":
            return stage_curves(asked)
        case "bubbles":
            return bubbles(asked)
        case "operators":
            raise StudyError(f"figure {asked.figure.id!r} is a heatmap, which is no picture with axes")


def _run_tiles(outcomes: Sequence[Outcome], nodes: Sequence[Node]) -> list[Tile]:
    counts = (
        (len({outcome.network for outcome in outcomes}), "network"),
        (len({outcome.data for outcome in outcomes}), "data set"),
        (len({outcome.seed for outcome in outcomes}), "seed"),
    )
    counted = ", ".join(f"{n} {what}{'' if n == 1 else 's'}" for n, what in counts)
    trained = sum(outcome.seconds_trained for outcome in outcomes)
    # An outcome that was resumed says how long its last process took, and of its epochs all.
    made = sum(max(outcome.number("seconds") or 0.0, outcome.seconds_trained) for outcome in outcomes)
    seconds = made + sum(outcome.number("seconds_to_measure") or 0.0 for outcome in outcomes)
    return [
        Tile(label="Files made and measured", value=f"{len(outcomes):,} of {len(nodes):,}", note=counted),
        Tile(label="Training", value=duration(trained), note=f"{duration(seconds)} with compression and measuring"),
    ]


def _texts(outcomes: Sequence[Outcome], name: str) -> tuple[str, ...]:
    return tuple(sorted({said for outcome in outcomes if (said := text(outcome.entry, name))}))


def _claim_tiles(rulings: Sequence[Ruling]) -> list[Tile]:
    if not rulings:
        return []
    counts = {ruling: rulings.count(ruling) for ruling in Ruling}
    others = ", ".join(
        f"{n} {str(ruling).lower()}" for ruling, n in counts.items() if n and ruling is not Ruling.CONFIRMED
    )
    return [Tile(label="Claims confirmed", value=f"{counts[Ruling.CONFIRMED]} of {len(rulings)}", note=others)]


def _missing(outcomes: Sequence[Outcome], nodes: Sequence[Node]) -> tuple[str, ...]:
    """Return how many outcomes of each case the plan holds and the ledger does not."""
    made = {outcome.key for outcome in outcomes}
    counts: dict[str, tuple[int, int]] = {}
    for node in nodes:
        n_missing, n = counts.get(node.case.name, (0, 0))
        counts[node.case.name] = n_missing + (node.key not in made), n + 1
    return tuple(f"{name}: {n_missing:,} of {n:,}" for name, (n_missing, n) in counts.items() if n_missing)
