"""This file writes both pages of a study from whatever its ledger holds so far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dwindle.bench.ledger import Entry
from dwindle.studies.markdown import study_page
from dwindle.studies.page import write_page, write_study_page
from dwindle.studies.study import Study


def entries_of(study: Study, entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Return those of `entries` that belong to `study`; several studies may share a folder."""
    return tuple(entry for entry in entries if entry.data.get("study", study.name) == study.name)


def write_pages(study: Study, entries: Sequence[Entry], folder: Path) -> tuple[Path, Path]:
    """Write `folder`/<name of the study>.md and .html, and return their paths.

    Raises:
        StudyError: there is no outcome of the study among `entries`, or a page cannot be written.
    """
    own = entries_of(study, entries)
    markdown = write_page(folder / f"{study.name}.md", study_page(study, own))
    return markdown, write_study_page(study, own, folder / f"{study.name}.html")
