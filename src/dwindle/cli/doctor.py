"""This file holds `dwindle doctor`: what is broken on this machine, and what will make timings noisy."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from dwindle.cli.console import print_json, stdout
from dwindle.doctor.finding import Finding, Status, is_broken

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
SelfTest = Annotated[bool, typer.Option("--self-test/--no-self-test", help="Export and run a small network.")]
Install = Annotated[
    str | None, typer.Option(help="Make an environment of its own for a converter: litert.", metavar="NAME")
]
MARKS: Final = {Status.FINE: "  ok", Status.WARNING: "warn", Status.BROKEN: "FAIL"}


def doctor(*, self_test: SelfTest = True, install: Install = None, as_json: AsJson = False) -> None:
    """Examine the installation and the machine; exit code 1 if something is broken, warnings do not count."""
    from dwindle.doctor.examine import examine

    if install is not None:
        _install(install)
        return

    findings = examine(with_self_test=self_test)
    if as_json:
        print_json({"is_broken": is_broken(findings), "findings": [_plain(finding) for finding in findings]})
    else:
        for finding in findings:
            stdout.print(f"{MARKS[finding.status]}  {finding.subject:18} {finding.fact}", markup=False)
            if finding.remedy:
                stdout.print(f"{'':24} -> {finding.remedy}", markup=False)
    raise typer.Exit(int(is_broken(findings)))


def _install(name: str) -> None:
    from dwindle.errors import SettingError
    from dwindle.exporters.litert_environment import install_converter, own_folder, working_converter

    if name != "litert":
        raise SettingError(
            f"--install knows litert, not {name!r}; other engines are extras: pip install 'dwindle[...]'"
        )
    if (there := working_converter()) is not None:
        stdout.print(f"already there, nothing to do: {there}", markup=False)
        return
    stdout.print(
        "LiteRT's converter pins packages that cannot live beside others; it gets an environment, shared by all that "
        f"you do with this torch: {own_folder()} (1 to 3 minutes)",
        markup=False,
    )
    stdout.print(f"ready: {install_converter()}", markup=False)


def _plain(finding: Finding) -> dict[str, str]:
    return {
        "subject": finding.subject,
        "status": finding.status.value,
        "fact": finding.fact,
        "remedy": finding.remedy,
    }
