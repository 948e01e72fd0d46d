"""This file checks installed packages against what the installation declares: missing, outside its range, optional.

Requirements are those of the installed distribution (PEP 508), versions are compared by their numbers alone (PEP 440
without pre-releases), so that nothing needs to be installed for this.
"""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Final

from dwindle.doctor.finding import Finding, broken, fine, warning

DISTRIBUTION: Final = "dwindle"
_REQUIREMENT: Final = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?")
_EXTRA: Final = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
_BOUND: Final = re.compile(r"(===|==|!=|>=|<=|~=|>|<)\s*([^,\s]+)")
_OPERATORS: Final[Mapping[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq, "===": operator.eq,
    "!=": operator.ne,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A declared package; `extra` is empty where it is always needed."""

    name: str
    bounds: str
    extra: str = ""

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Return the requirement in a line of package metadata.

        >>> Requirement.parse("torch<2.14,>=2.9; extra == 'gpu'")
        Requirement(name='torch', bounds='<2.14,>=2.9', extra='gpu')
        """
        match = _REQUIREMENT.match(text)
        name, bounds, marker = match.groups(default="") if match else (text, "", "")
        extra = _EXTRA.search(marker)
        return cls(name=name, bounds=bounds.strip(), extra=extra[1] if extra else "")

    def allows(self, version: str) -> bool:
        """Return whether `version` lies in the declared range.

        >>> Requirement.parse("torch<2.14,>=2.9").allows("2.9.1+cpu")
        True
        """
        return all(_holds(sign, numbers(version), bound) for sign, bound in _BOUND.findall(self.bounds))

    @property
    def command(self) -> str:
        """What installs it."""
        return f'pip install "{self.name}{self.bounds}"'


def numbers(version: str) -> tuple[int, ...]:
    """Return the release numbers of a version.

    >>> numbers("2.9.1+cpu"), numbers("24.0rc1")
    ((2, 9, 1), (24, 0))
    """
    match = re.match(r"v?(?:\d+!)?(\d+(?:\.\d+)*)", version)
    return tuple(map(int, match[1].split("."))) if match else ()


def declared() -> tuple[str, tuple[Requirement, ...]]:
    """Return the range of Python versions and every requirement; empty where the package is not installed as one."""
    try:
        found = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "", ()
    python = found.metadata.json.get("requires_python", "")
    return str(python), tuple(map(Requirement.parse, found.requires or ()))


def check_python(requires: str) -> Finding:
    """Return whether this Python is one of those that the package is made for."""
    version = ".".join(map(str, sys.version_info[:3]))
    if Requirement(name="python", bounds=requires).allows(version):
        return fine("Python", f"{version} ({sys.executable})")
    return broken(
        "Python", f"{version}, the package needs {requires}", "make a virtual environment with another Python"
    )


def check_requirements(requirements: Iterable[Requirement]) -> list[Finding]:
    """Return a finding for each package that is always needed."""
    needed = [requirement for requirement in requirements if not requirement.extra]
    if not needed:
        return [
            warning(
                "packages",
                "the installation does not say what it needs",
                "install dwindle with pip instead of copying its folder",
            )
        ]
    return [_check(requirement) for requirement in needed]


def check_extras(requirements: Iterable[Requirement]) -> list[Finding]:
    """Return a finding for each extra: what is there, and the command that adds the rest."""
    by_extra: dict[str, list[Requirement]] = {}
    for requirement in requirements:
        if requirement.extra:
            by_extra.setdefault(requirement.extra, []).append(requirement)
    found: list[Finding] = []
    for extra, members in sorted(by_extra.items()):
        missing = [member.name for member in members if installed(member.name) is None]
        words = f"missing {', '.join(missing)}: pip install '{DISTRIBUTION}[{extra}]'" if missing else "all there"
        found.append(fine(f"extra {extra}", words))
    return found


def installed(name: str) -> str | None:
    """Return the installed version of a package, None if there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _check(requirement: Requirement) -> Finding:
    version = installed(requirement.name)
    if version is None:
        return broken(requirement.name, "is not installed", requirement.command)
    if not requirement.allows(version):
        return warning(requirement.name, f"{version} is outside {requirement.bounds}", requirement.command)
    return fine(requirement.name, version)


def _holds(sign: str, version: tuple[int, ...], bound: str) -> bool:
    wanted = numbers(bound)
    if sign == "~=":
        return version >= wanted and version[: len(wanted) - 1] == wanted[:-1]
    if bound.endswith(".*"):
        return (version[: len(wanted)] == wanted) is (sign != "!=")
    length = max(len(version), len(wanted))
    padded = (side + (0,) * (length - len(side)) for side in (version, wanted))
    return _OPERATORS[sign](*padded)
