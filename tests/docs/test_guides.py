"""The how-to guides are run as they stand, and the runner of guides is held to what it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).with_name("run_guide.py")
GUIDES = sorted((Path(__file__).resolve().parents[2] / "docs/how-to").glob("*.md"))


def run(guide: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUNNER), str(guide)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=600, check=False)


@pytest.mark.parametrize("guide", [g for g in GUIDES if g.stem != "index"], ids=lambda path: path.stem)
def test_the_guide_runs_as_it_stands(guide: Path, tmp_path: Path) -> None:
    finished = run(guide, tmp_path)
    assert finished.returncode == 0, f"{finished.stdout[-4000:]}\n{finished.stderr[-6000:]}"


def test_every_guide_is_on_the_list_of_guides(repository: Path) -> None:
    listed = (repository / "docs/how-to/index.md").read_text()
    assert len(GUIDES) >= 8
    assert not [g.name for g in GUIDES if g.stem != "index" and f"({g.name})" not in listed]


def guide_of(tmp_path: Path, text: str) -> Path:
    guide = tmp_path / "guide.md"
    guide.write_text(text)
    return guide


def test_blocks_share_names_files_and_a_folder(tmp_path: Path) -> None:
    text = """
Write a file:

```toml
# file: sub/a.toml
x = 3
```

```python
import tomllib
from pathlib import Path
x = tomllib.loads(Path("sub/a.toml").read_text())["x"]
```

    ```python
    print(x + 1)
    ```

<!-- prints -->

```text
4
```

```bash
echo "one 12.5 s"; python -c 'print("same python")'
```

<!-- prints -->
```text
one ... s
same python
```

<!-- not run: needs a device -->
```bash
exit 9
```

```toml
this is only shown
```
"""
    finished = run(guide_of(tmp_path, text.replace("    ```", "```").replace("    print", "print")), tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "6 blocks" in finished.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# t\n\n```python\nx = 1\n\nraise ValueError('seen')\n```\n", "line 6: ValueError: seen"),
        ("```bash\nfalse\necho later\n```\n", "line 1: exit code 1"),
        ("```bash\nfalse | cat\n```\n", "line 1: exit code 1"),
        ("```python\nprint(1)\n```\n<!-- prints -->\n```text\n2\n```\n", "line 5: the block before printed"),
        ("```pyhton\nprint(1)\n```\n", "line 1: unknown language 'pyhton'"),
        ("text\n```python\nprint(1)\n", "line 2: this block is never closed"),
        ("```toml\n# file: ../escaped.toml\n```\n", "line 1: ../escaped.toml leaves the folder"),
        ("```python\nx = (\n```\n", "line 2: SyntaxError"),
    ],
)
def test_a_block_that_fails_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    finished = run(guide_of(tmp_path, text), tmp_path)
    assert finished.returncode == 1
    assert message in finished.stderr
    assert "guide.md" in finished.stderr
    assert not (tmp_path.parent / "escaped.toml").exists()


def test_a_block_is_left_out_where_a_module_that_it_needs_is_missing(tmp_path: Path) -> None:
    text = (
        "<!-- needs: json, no_such_module -->\n```bash\nexit 3\n```\n<!-- needs: json -->\n```python\nprint(1)\n```\n"
    )
    finished = run(guide_of(tmp_path, text), tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "1 blocks" in finished.stdout


def test_a_mark_counts_only_for_the_block_right_after_it(tmp_path: Path) -> None:
    text = "<!-- not run: later -->\nSome words between.\n\n```bash\nexit 3\n```\n"
    finished = run(guide_of(tmp_path, text), tmp_path)
    assert "exit code 3" in finished.stderr
