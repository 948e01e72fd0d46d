"""This file analyzes the network of a job and writes what it found beside the job's other files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

from dwindle.errors import LedgerError
from dwindle.job.analysis import Analysis
from dwindle.job.analyze import DEFAULTS, Settings, analyze
from dwindle.job.inputs import context_of, length
from dwindle.job.job import Job
from dwindle.network.train import Progress
from dwindle.report.analysis import write_analysis
from dwindle.technique import evidence_of
from dwindle.whole_file import write_whole

PAGE: Final = "analysis.html"
PLAIN: Final = "analysis.json"


def analyze_job(
    job: Job, *, settings: Settings = DEFAULTS, report_progress: Progress | None = None
) -> tuple[Analysis, Path]:
    """Analyze the network of `job`, write analysis.json and analysis.html into `job.out`, and return both findings.

    Inputs come from the training split, labels from the validation split; the test split is not read.

    Raises:
        DwindleError: whatever `analyze` raises, or the files cannot be written.
    """
    found = analyze(job.network, evidence_of(context_of(job, report_progress)), settings=settings, name=job.name)
    data = {"data": job.data.name, "validation_examples": length(job.data.validation)}
    found = replace(found, about={**found.about, **data})
    plain = found.to_plain()
    path = job.out / PLAIN
    try:
        job.out.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(plain, indent=2, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise LedgerError(f"{path} cannot be written ({error.strerror}); make room or choose another folder") from error
    return found, write_analysis(plain, job.out / PAGE)
