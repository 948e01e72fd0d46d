"""This file holds `dwindle doctor`: what is broken on this machine, and what will make timings noisy."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from dwindle.cli.console import print_json, stdout
from dwindle.doctor.finding import Finding, Status, is_broken

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
SelfTest = Annotated[bool, typer.Option("--self-test/--no-self-test", help="Export and run a small network.")]
MARKS: Final = {Status.FINE: "  ok", Status.WARNING: "warn", Status.BROKEN: "FAIL"}


def doctor(*, self_test: SelfTest = True, as_json: AsJson = False) -> None:
    """Examine the installation and the machine; exit code 1 if something is broken, warnings do not count."""
    from dwindle.doctor.examine import examine

    findings = examine(with_self_test=self_test)
    if as_json:
        print_json({"is_broken": is_broken(findings), "findings": [_plain(finding) for finding in findings]})
    else:
        for finding in findings:
            stdout.print(f"{MARKS[finding.status]}  {finding.subject:18} {finding.fact}", markup=False)
            if finding.remedy:
                stdout.print(f"{'':24} -> {finding.remedy}", markup=False)
    raise typer.Exit(int(is_broken(findings)))


def _plain(finding: Finding) -> dict[str, str]:
    return {
        "subject": finding.subject,
        "status": finding.status.value,
        "fact": finding.fact,
        "remedy": finding.remedy,
    }
