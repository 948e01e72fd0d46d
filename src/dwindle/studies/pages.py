"""This file writes both pages of a study from whatever its ledger holds so far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dwindle.bench.ledger import Entry
from dwindle.errors import StudyError
from dwindle.studies.markdown import study_page
from dwindle.studies.page import write_study_page
from dwindle.studies.study import Study
from dwindle.whole_file import write_whole


def entries_of(study: Study, entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Return those of `entries` that belong to `study`; several studies may share a folder."""
    return tuple(entry for entry in entries if entry.data.get("study", study.name) == study.name)


def write_pages(study: Study, entries: Sequence[Entry], folder: Path) -> tuple[Path, Path]:
    """Write `folder`/<name of the study>.md and .html, and return their paths.

    Raises:
        StudyError: there is no outcome of the study among `entries`, or a page cannot be written.
    """
    own = entries_of(study, entries)
    markdown = folder / f"{study.name}.md"
    text = study_page(study, own)
    try:
        write_whole(markdown, text.encode())
    except OSError as error:
        raise StudyError(
            f"the page {markdown} cannot be written ({error.strerror or error}); make room or choose another folder"
        ) from error
    return markdown, write_study_page(study, own, folder / f"{study.name}.html")
