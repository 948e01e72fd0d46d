"""The generated pages are what the code says, the reference is complete, and the site builds without a warning."""

from __future__ import annotations

import ast
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dwindle.public_names import PUBLIC_NAMES

ROOT = Path(__file__).resolve().parents[2]


def tool(name: str) -> Any:
    """Import a file of docs/, which is no package."""
    path = ROOT / "docs" / f"{name}.py"
    earlier = sys.path.copy()
    sys.path[:0] = [str(ROOT / "docs"), str(path.parent)]
    try:
        spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path[:] = earlier


@pytest.mark.parametrize("page", ["orders.md", "commands.md", "all-of-dwindle.md"])
def test_generated_pages_are_current(page: str) -> None:
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert written == tool("generate").pages()[page], "run `python docs/generate.py` and commit what it writes"


def test_results_follow_from_their_ledgers() -> None:
    generate = tool("generate")
    ledgers = sorted((ROOT / "docs/results").glob("*.jsonl"))
    assert ledgers
    for ledger in ledgers:
        assert ledger.with_suffix(".md").read_text(encoding="utf-8") == generate.results_page(ledger), ledger.name


def test_a_region_with_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError, match="nets"):
        tool("tools/tables").fill("<!-- generated: nets -->\n<!-- end of generated -->")


def test_every_public_name_is_in_the_reference() -> None:
    reference = tool("tools/reference")
    pages, targets = reference.pages(), reference.targets()
    assert set(targets) == set(PUBLIC_NAMES)
    shown = {line.removeprefix("::: ") for text in pages.values() for line in text.splitlines() if line[:4] == "::: "}
    for name, path in targets.items():
        assert f"`dw.{name}`][{path}]" in pages["reference/index.md"]
        assert path in shown or path.rpartition(".")[0] in shown, name


def test_every_module_is_on_one_page_of_the_reference() -> None:
    reference = tool("tools/reference")
    shown = sorted(module for area in reference.AREAS for module in reference.modules_of(area))
    assert shown == sorted(reference.modules())
    assert len(shown) > 80


def test_public_names_come_first_on_their_page() -> None:
    reference = tool("tools/reference")
    order = [m for m in reference.modules_of("techniques") if m.startswith("dwindle.techniques.")]
    assert order.index("dwindle.techniques.quantize_weights") < len(PUBLIC_NAMES)
    public = {path.rpartition(".")[0] for path in reference.targets().values()}
    flags = [module in public for module in order]
    assert flags == sorted(flags, reverse=True)


def test_what_is_public_says_what_it_is() -> None:
    reference = tool("tools/reference")
    silent = [name for name, path in reference.targets().items() if not reference.summary(path)]
    assert not silent


def test_every_public_class_and_function_has_a_summary_line() -> None:
    silent: list[str] = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                summary = (ast.get_docstring(node) or "").partition("\n\n")[0]
                if not summary.rstrip().endswith((".", "?", ":")):
                    silent.append(f"{path.name}: {node.name}")
    assert not silent


def test_doctests_are_fenced() -> None:
    pytest.importorskip("griffe")
    fence = tool("tools/doctests").fence
    text = "Add.\n\n    >>> 1 + 1\n    2\n\nMore.\n>>> x = [\n...     1]\n>>> x\n[1]"
    assert fence(text) == (
        "Add.\n\n    ```pycon\n    >>> 1 + 1\n    2\n    ```\n\nMore.\n```pycon\n>>> x = [\n...     1]\n>>> x\n[1]\n```"
    )
    assert fence("No example, a > b.\n") == "No example, a > b.\n"


@pytest.mark.parametrize(
    ("uri", "text", "expected"),
    [
        ("index.md", "[a](docs/format.md#x)", "[a](format.md#x)"),
        ("index.md", "![p](docs/pipeline.svg)", "![p](pipeline.svg)"),
        ("index.md", "[all](benchmarks) and [c](CONTRIBUTING.md)", "all and [c](contributing.md)"),
        ("how-to/a.md", "[r](../results/fashion_mnist_int8.md)", "[r](../results/fashion_mnist_int8.md)"),
        ("all-of-dwindle.md", "[A](../ARCHITECTURE.md)", "[A](architecture.md)"),
        ("architecture.md", "[gone](docs/gone.md)", "[gone](gone.md)"),
        ("index.md", "[w](https://example.org/a.md)", "[w](https://example.org/a.md)"),
        ("index.md", "```\n[a](docs/format.md)\n```", "```\n[a](docs/format.md)\n```"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(uri: str, text: str, expected: str) -> None:
    assert tool("tools/hooks").on_page_markdown(text, SimpleNamespace(file=SimpleNamespace(src_uri=uri))) == expected


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_needs_no_internet(tmp_path: Path) -> None:
    command = shutil.which("properdocs", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("properdocs is not installed: pip install -e '.[docs]'")
    build = [command, "build", "--strict", "--site-dir", str(tmp_path / "site")]
    finished = subprocess.run(build, capture_output=True, text=True, cwd=ROOT, check=False)
    assert finished.returncode == 0, finished.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert 'src="http' not in text, page
        assert 'rel="stylesheet" href="http' not in text, page
