"""This file opens the page of a study in headless Chromium: it draws, complains about nothing, and fits a phone."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from dwindle.studies.page import write_study_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
    "--allow-file-access-from-files", "--enable-logging=stderr",
]  # fmt: skip
PHONE = """<!doctype html><title>waiting</title>
<iframe src="study.html" style="width:390px;height:800px;border:0"></iframe>
<script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument, width = page.documentElement.scrollWidth;
  const fonts = [...page.querySelectorAll("body *")].filter(e => e.textContent.trim() && !e.closest("svg, .sr"))
    .map(e => parseFloat(getComputedStyle(e).fontSize));
  const ticks = [...page.querySelectorAll(".plot")].flatMap(plot => {
    const boxes = [...plot.querySelectorAll(".x.tick")].map(e => e.getBoundingClientRect());
    return boxes.slice(1).map((box, i) => box.left - boxes[i].right);
  });
  document.title = `width ${width} font ${Math.min(...fonts)} gap ${Math.min(...ticks)}`;
};
</script>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine, so nothing was drawn")


def browse(folder: Path, file: str, *flags: str) -> subprocess.CompletedProcess[str]:
    profile = folder / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags, (folder / file).as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture(scope="module")
def folder(study, outcomes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_study_page(study, outcomes, folder / "study.html")
    (folder / "phone.html").write_text(PHONE, encoding="utf-8")
    return folder


def test_draws_without_a_word_on_the_console(folder):
    done = browse(folder, "study.html", "--window-size=1280,2000", f"--screenshot={folder / 'page.png'}")
    assert "CONSOLE" not in done.stderr
    png = (folder / "page.png").read_bytes()
    assert struct.unpack(">II", png[16:24]) == (1280, 2000)
    assert len(png) > 50_000  # an empty page of this size has a tenth of that


def test_fits_a_phone_and_no_label_covers_another(folder):
    done = browse(folder, "phone.html", "--window-size=800,900", "--virtual-time-budget=5000", "--dump-dom")
    found = re.search(r"<title>width (\d+) font ([0-9.]+) gap ([0-9.-]+)</title>", done.stdout)
    assert found is not None, done.stdout[:300]
    assert int(found[1]) <= 390
    assert float(found[2]) >= 12
    assert float(found[3]) > 2
