"""What the pages show is run: the README's example, every TOML block, the job of the example folder, every link."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dwindle.job.spec import read_job
from dwindle.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(str(page.relative_to(ROOT)) for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_the_readme_example_runs_as_it_stands(repository: Path, tmp_path: Path) -> None:
    (example,) = blocks(repository / "README.md", "python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    finished = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert finished.returncode == 0, finished.stderr
    ratio, measurement = finished.stdout.split(" ", maxsplit=1)
    assert float(ratio) > 4
    assert "n=300" in measurement
    assert (tmp_path / "out/readme/model.dwn").is_file()


@pytest.mark.slow
def test_the_example_in_memory_runs(repository: Path, tmp_path: Path) -> None:
    script = repository / "examples/01_compress.py"
    finished = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "accuracy_drop" in finished.stdout


def test_jobs_on_the_pages_are_jobs(repository: Path, tmp_path: Path) -> None:
    (text,) = blocks(repository / "docs/all-of-dwindle.md", "toml")
    (tmp_path / "job.toml").write_text(text)
    for path in (tmp_path / "job.toml", repository / "examples/fashion_mnist/job.toml"):
        spec = read_job(path)
        assert Recipe.from_plain(spec.recipe, where="recipe").steps
        assert tomllib.loads(path.read_text())["budget"]


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(repository: Path, name: str) -> None:
    page = repository / name
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    missing = [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]
    assert not missing


def test_the_version_stands_in_the_changelog(repository: Path) -> None:
    from dwindle.version import VERSION

    assert f"## {VERSION}" in (repository / "CHANGELOG.md").read_text()
