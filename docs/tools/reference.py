"""This file writes the Markdown of the API reference: one page for each area of the package, nothing copied by hand."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from dwindle.public_names import PUBLIC_NAMES

SOURCE: Final = Path(__file__).resolve().parents[2] / "src"
AREAS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "core": ("Core: tensors in, tensors out", ("dwindle.core",)),
    "network": ("Networks: the model, training, capture", ("dwindle.network",)),
    "techniques": ("Techniques and their protocol", ("dwindle.technique", "dwindle.techniques")),
    "recipe": ("Recipes: check, run, replay", ("dwindle.recipe",)),
    "bench": ("Bench: measurements, budgets, the ledger", ("dwindle.bench",)),
    "exporters": ("Exporters", ("dwindle.exporters",)),
    "runtimes": ("Runtimes", ("dwindle.runtimes",)),
    "container": ("The container: .dwn files without torch", ("dwindle.container",)),
    "data": ("Data sets", ("dwindle.data",)),
    "zoo": ("Networks of the literature", ("dwindle.zoo",)),
    "job": ("Jobs and their report", ("dwindle.job", "dwindle.report")),
    "studies": ("Studies: experiments of the literature as data", ("dwindle.studies",)),
    "cli": ("Command line and doctor", ("dwindle.cli", "dwindle.doctor")),
    "foundations": (
        "Foundations: errors, artifacts, settings, laws for tests",
        (
            "dwindle.errors", "dwindle.artifact", "dwindle.settings", "dwindle.testing", "dwindle.public_names",
            "dwindle.version", "dwindle.whole_file", "dwindle.processor",
        ),
    ),
}  # fmt: skip
"""Area -> title and the packages or modules on its page."""


def pages() -> dict[str, str]:
    """Return the Markdown of every page of the reference by its address."""
    found = {f"reference/{area}.md": _area_page(area) for area in AREAS}
    return {"reference/index.md": _index_page(), **found}


def modules() -> tuple[str, ...]:
    """Return every module of the package, packages included, in alphabetical order."""
    paths = (SOURCE / "dwindle").rglob("*.py")
    names = (".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in paths)
    return tuple(sorted({name.removesuffix(".__init__") for name in names} - {"dwindle"}))


def modules_of(area: str) -> tuple[str, ...]:
    """Return the modules on the page of `area`: those that hold public names first."""
    roots = AREAS[area][1]
    everything = modules()
    mine = [m for m in everything if any(m == root or m.startswith(f"{root}.") for root in roots)]
    public = {path if path in everything else path.rpartition(".")[0] for path in targets().values()}
    return tuple(sorted(mine, key=lambda m: (not _is_package(m), m not in public, m)))


def targets() -> dict[str, str]:
    """Return where each public name is defined, as a dotted path: of the class or function, else of its module."""
    found: dict[str, str] = {}
    for name, reference in PUBLIC_NAMES.items():
        module, _, attribute = reference.partition(":")
        value = getattr(importlib.import_module(module), attribute) if attribute else None
        is_defined = inspect.isclass(value) or inspect.isfunction(value)
        found[name] = f"{value.__module__}.{value.__qualname__}" if is_defined else module
    return found


def summary(path: str) -> str:
    """Return the summary in the docstring of what the dotted `path` names; empty where it has none of its own."""
    module, _, attribute = path.rpartition(".")
    try:
        value = importlib.import_module(path)
    except ModuleNotFoundError:
        value = getattr(importlib.import_module(module), attribute)
    is_documented = inspect.ismodule(value) or inspect.isclass(value) or inspect.isfunction(value)
    text = inspect.getdoc(value) if is_documented else None
    return " ".join((text or "").partition("\n\n")[0].split())


def _index_page() -> str:
    lines = [
        "# API reference",
        "",
        "Made from the docstrings. What `import dwindle as dw` offers:",
        "",
        "| name | |",
        "|---|---|",
    ]
    lines += [f"| [`dw.{name}`][{path}] | {_cell(summary(path))} |" for name, path in targets().items()]
    lines += ["", "Everything, by area; a layer may use those below it, never those above:", ""]
    lines += [f"- [{title}]({area}.md)" for area, (title, _) in AREAS.items()]
    return "\n".join([*lines, ""])


def _area_page(area: str) -> str:
    return "\n".join([f"# {AREAS[area][0]}", "", *_entries(area)])


def _entries(area: str) -> Iterator[str]:
    for module in modules_of(area):
        yield f"::: {module}"
        if _is_package(module):  # its door re-exports what its modules hold: its own text is enough
            yield "    options: {members: false}"
        yield ""


def _is_package(module: str) -> bool:
    return (SOURCE / Path(*module.split("."))).is_dir()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
