"""This file tests artifacts of one file and of two."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dwindle.artifact import Artifact, files_of
from dwindle.bench.probes.size import file_at, require_unchanged
from dwindle.errors import MeasurementError


@pytest.fixture
def xml(tmp_path: Path) -> Path:
    (tmp_path / "m.xml").write_bytes(b"graph")
    (tmp_path / "m.bin").write_bytes(b"weights")
    return tmp_path / "m.xml"


def test_hash_and_size_cover_every_file(xml: Path) -> None:
    artifact = Artifact.of(xml, origin="abc")
    assert artifact == Artifact(
        path=xml, format="xml", sha256=hashlib.sha256(b"graphweights").hexdigest(), size_bytes=12, origin="abc"
    )
    xml.with_suffix(".bin").write_bytes(b"others!")
    assert Artifact.of(xml).sha256 != artifact.sha256


def test_other_formats_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"graph")
    path.with_suffix(".bin").write_bytes(b"of something else")
    assert files_of(path) == (path,)
    assert Artifact.of(path).size_bytes == 5


def test_a_missing_file_is_named(xml: Path) -> None:
    artifact = Artifact.of(xml)
    xml.with_suffix(".bin").unlink()
    with pytest.raises(MeasurementError, match=r"m\.bin cannot be read \(No such file.*\); name an existing file"):
        file_at(xml)
    with pytest.raises(MeasurementError, match=r"m\.bin cannot be read .*only a file on disk can be measured"):
        require_unchanged(artifact)
    xml.unlink()
    with pytest.raises(MeasurementError, match=r"m\.xml cannot be read"):
        file_at(xml)
