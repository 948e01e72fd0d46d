"""This file adds to the site what is no file in docs/: pages of the repository's root and the API reference."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, Final

from reference import pages

ROOT: Final = Path(__file__).resolve().parents[2]
ROOT_PAGES: Final = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""File of the repository -> page of the site."""
LINK: Final = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
FENCED: Final = re.compile(r"(^```.*?^```)", flags=re.DOTALL | re.MULTILINE)


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from properdocs.structure.files import File

    texts = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in ROOT_PAGES.items()}
    for uri, text in {**texts, **pages()}.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links of the repository at pages of the site; what is no page, such as a script, stays as text."""
    uri = page.file.src_uri
    origins = {page: name for name, page in ROOT_PAGES.items()}
    source = origins.get(uri, f"docs/{uri}")
    parts = FENCED.split(markdown)
    return "".join(part if part.startswith("```") else _relinked(part, source, uri) for part in parts)


def _relinked(text: str, source: str, uri: str) -> str:
    def replace(match: re.Match[str]) -> str:
        mark, label, target, anchor = match[1], match[2], match[3], match[4] or ""
        if "://" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = ROOT_PAGES.get(path) or (path.removeprefix("docs/") if _is_page(path, uri) else None)
        if place is None:
            return label
        return f"{mark}[{label}]({posixpath.relpath(place, posixpath.dirname(uri) or '.')}{anchor})"

    return LINK.sub(replace, text)


def _is_page(path: str, uri: str) -> bool:
    """Tell whether `path` is on the site; a dead link of a page counts, so that the strict build reports it."""
    is_asset = path.startswith("docs/") and not path.endswith((".py", ".jsonl"))
    return (is_asset and not (ROOT / path).is_dir()) or uri.startswith("reference/") or not (ROOT / path).exists()
