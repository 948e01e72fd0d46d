"""This file holds what a doctor says: one finding about one thing, with the remedy where there is one."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from dwindle.errors import SettingError


class Status(enum.Enum):
    """How serious a finding is; only `BROKEN` fails."""

    FINE = "fine"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found about one thing.

    Attributes:
        fact: what is there.
        remedy: what to do; empty where nothing needs to be done.
    """

    subject: str
    status: Status
    fact: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if not self.subject or not self.fact or (self.status is Status.FINE and self.remedy):
            raise SettingError(
                f"a finding needs a subject and a fact, and a remedy only where something is wrong: {self}"
            )


def fine(subject: str, fact: str) -> Finding:
    """Return that all is well."""
    return Finding(subject=subject, status=Status.FINE, fact=fact)


def warning(subject: str, fact: str, remedy: str) -> Finding:
    """Return that something works, but not as well as it could."""
    return Finding(subject=subject, status=Status.WARNING, fact=fact, remedy=remedy)


def broken(subject: str, fact: str, remedy: str) -> Finding:
    """Return that something does not work."""
    return Finding(subject=subject, status=Status.BROKEN, fact=fact, remedy=remedy)


def is_broken(findings: Iterable[Finding]) -> bool:
    """Return whether any finding is `BROKEN`."""
    return any(finding.status is Status.BROKEN for finding in findings)
