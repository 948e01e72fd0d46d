"""This file opens the report in headless Chromium: it draws, complains about nothing, and fits a phone."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from dwindle.report.page import render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
    "--enable-logging=stderr",
]
PHONE = """<!doctype html><title>waiting</title>
<iframe src="report.html" style="width:390px;height:800px;border:0"></iframe>
<script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument, width = page.documentElement.scrollWidth;
  const fonts = [...page.querySelectorAll("body *")].filter(e => e.textContent.trim() && !e.closest(".sr"))
    .map(e => parseFloat(getComputedStyle(e).fontSize));
  document.title = `width ${width} font ${Math.min(...fonts)} sections ${page.querySelectorAll("section").length}`;
};
</script>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine, so nothing was drawn")


def browse(folder: Path, file: str, *flags: str) -> subprocess.CompletedProcess[str]:
    profile = folder / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags, (folder / file).as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture(scope="module")
def folder(entries, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    long_name = "a.very." * 60 + "weight"
    tensor = next(e for e in entries if e.kind == "tensor")
    tensor = type(tensor)("tensor", {**tensor.data, "name": long_name, "n_weights": 10**9, "raw_bytes": 10**9}, "")
    (folder / "report.html").write_text(render((*entries, tensor)), encoding="utf-8")
    (folder / "phone.html").write_text(PHONE, encoding="utf-8")
    return folder


def test_draws_without_a_word_on_the_console(folder):
    done = browse(folder, "report.html", "--window-size=1280,2000", f"--screenshot={folder / 'page.png'}")
    assert "CONSOLE" not in done.stderr
    png = (folder / "page.png").read_bytes()
    assert struct.unpack(">II", png[16:24]) == (1280, 2000)
    assert len(png) > 50_000  # an empty page of this size has a tenth of that


def test_fits_a_phone_without_scrolling_sideways(folder):
    done = browse(folder, "phone.html", "--window-size=800,900", "--virtual-time-budget=5000", "--dump-dom")
    found = re.search(r"<title>width (\d+) font ([0-9.]+) sections (\d+)</title>", done.stdout)
    assert found is not None, done.stdout[:300]
    assert int(found[1]) <= 390
    assert float(found[2]) >= 12
    assert int(found[3]) == 12
