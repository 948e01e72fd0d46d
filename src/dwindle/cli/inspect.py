"""This file holds `dwindle inspect`: where the bytes of a file went."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[Path, typer.Argument(help="A .dwn file.", metavar="FILE.DWN")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
