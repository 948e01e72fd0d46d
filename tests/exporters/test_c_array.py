"""This file compiles what was written as C and as C++, runs it, and compares what it says with the file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dwindle.container import Contents, read, write
from dwindle.container.integer import integer_form
from dwindle.container.records import AffineRecord, CodebookRecord, DenseRecord, HalfRecord, ScaledRecord, SparseRecord
from dwindle.errors import ContainerError, ExportError, SettingError
from dwindle.exporters import c_array
from dwindle.exporters.from_file import export_file

COMPILERS = {
    "c99": ("gcc", "-std=c99", "-xc"),
    "c11": ("gcc", "-std=c11", "-xc"),
    "c++11": ("g++", "-std=c++11", "-xc++"),
}
STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic")
FLOATS = np.array([0.1, -0.0, 1e-45, 3.4e38, 16777217, -2.5, np.inf], np.float32)


@pytest.fixture
def contents() -> Contents:
    rng = np.random.default_rng(0)
    codes = rng.integers(-128, 128, (3, 4)).astype(np.int32)
    per_channel = AffineRecord(
        codes, rng.uniform(0.01, 1, 3).astype(np.float32), np.zeros(3, np.int32), ("channel", 0), 8, True
    )
    centroids = AffineRecord(np.array([-3, 0, 7]), np.array([0.5], np.float32), np.array([1]), ("tensor",), 4, True)
    book = CodebookRecord(rng.integers(0, 3, (2, 5)).astype(np.uint8), centroids)
    return Contents(
        {
            "conv.weight": per_channel,
            "conv_weight": DenseRecord(FLOATS),
            "a*/b": SparseRecord(rng.random((2, 5)) < 0.5, book),
            "scaled": ScaledRecord(book, np.array([0.5, -2], np.float32), 0),
            "half": HalfRecord(np.array([0.1, 6e-8], np.float16)),
            "counts": DenseRecord(np.array([-(2**63), 5, 2**62])),
            "bytes": DenseRecord(np.array([0, 255], np.uint8)),
            "flags": DenseRecord(np.array([True, False])),
            "words": DenseRecord(np.array([-(2**31), 2**31 - 1], np.int32)),
            "longs": DenseRecord(np.array([2**64 - 1], np.uint64)),
            "doubles": DenseRecord(np.array([0.1, 1e-320])),
            "empty": DenseRecord(np.zeros((0, 3), np.float32)),
            "scalar": DenseRecord(np.array(7, np.int64)),
        },
        aliases={"tied": "conv.weight"},
        metadata={"digest": "abc", "version": "1.2 */ int x;"},
    )


def said(folder: Path, kind: str, main: str, *sources: str) -> bytes:
    compiler, standard, language = COMPILERS[kind]
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    (folder / "main.c").write_text(main)
    program = folder / f"program_{kind.replace('+', 'x')}"
    command = [compiler, language, standard, *STRICT, "-o", str(program), str(folder / "main.c")]
    done = subprocess.run([*command, *(str(folder / s) for s in sources)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]
    return subprocess.run([str(program)], capture_output=True, check=True).stdout


@pytest.mark.parametrize("kind", COMPILERS)
def test_the_program_holds_the_bytes_of_the_file(kind, contents, tmp_path):
    path = tmp_path / "my-net v2.dwn"
    write(path, contents)
    header, source = export_file(path, "c", tmp_path / "net.h")
    assert (header.path, source.path) == (tmp_path / "net.h", tmp_path / "net.c")
    main = """
        #include <stdio.h>
        #include "net.h"
        #include "net.h"
        int main(void) {
            if ((uintptr_t)net_dwn % 16) return 1;
            return fwrite(net_dwn, 1, NET_DWN_BYTES, stdout) != sizeof net_dwn;
        }"""
    assert said(tmp_path, kind, main, "net.c") == path.read_bytes()


def dump(arrays: list[str]) -> str:
    lines = "\n".join(f"    fwrite({a}, 1, sizeof {a}, stdout);" for a in arrays)
    return f'#include <stdio.h>\n#include "net.h"\nint main(void) {{\n{lines}\n    return 0;\n}}\n'


@pytest.mark.parametrize("kind", COMPILERS)
def test_the_program_holds_the_codes_and_the_numbers(kind, contents, tmp_path):
    path = tmp_path / "net.dwn"
    write(path, contents)
    export_file(path, "c-int8")
    records = read(path).records
    expected = b""
    arrays: list[str] = []
    for tensor, name in (("conv.weight", "conv_weight"), ("a*/b", "a_b"), ("scaled", "scaled")):
        form = integer_form(records[tensor])
        arrays += [f"net_{name}_{part}" for part in ("codes", "scale", "zero_point", "shape")]
        expected += form.codes.tobytes() + form.scale.tobytes() + form.zero_point.tobytes()
        expected += np.array(form.codes.shape, np.int32).tobytes()
    plain = {
        "conv_weight_2": FLOATS,
        "half": np.array([0.1, 6e-8], np.float16).astype(np.float32),
        **{name: records[name].values for name in ("counts", "bytes", "flags", "words", "longs", "doubles", "scalar")},
    }
    for name, values in plain.items():
        arrays.append(f"net_{name}")
        expected += values.tobytes()
    assert said(tmp_path, kind, dump(arrays), "net.c") == expected


def test_the_comment_says_what_it_was_made_from(contents, tmp_path):
    path = tmp_path / "net.dwn"
    write(path, contents)
    header, _ = export_file(path, "c-int8")
    text = header.path.read_text()
    for line in (
        "from net.dwn",
        "digest of the model: abc",
        "net_conv_weight_2: conv_weight, Dense",
        "tied is the same",
    ):
        assert line in text
    assert text.count("*/") == 1
    assert "#define NET_CONV_WEIGHT_AXIS 0" in text
    assert "#define NET_EMPTY_COUNT 0" in text
    again = tmp_path / "again"
    again.mkdir()
    assert export_file(path, "c-int8", again / "net")[0].sha256 == header.sha256


def test_floats_alone_are_no_int8(tmp_path):
    write(tmp_path / "net.dwn", Contents({"w": DenseRecord(np.ones(2, np.float32))}))
    with pytest.raises(ExportError, match=r"no weight of this file has codes of 8 bits.*use QuantizeWeights"):
        export_file(tmp_path / "net.dwn", "c-int8")
    assert [p.name for p in tmp_path.iterdir()] == ["net.dwn"]


def test_what_no_compiler_reads_is_refused(contents, tmp_path, monkeypatch):
    write(tmp_path / "net.dwn", contents)
    monkeypatch.setattr(c_array, "MAX_BYTES", 10)
    for target in ("c", "c-int8"):
        with pytest.raises(ExportError, match="arrays of more than 10 bytes"):
            export_file(tmp_path / "net.dwn", target)


def test_wrong_files_and_wrong_targets(tmp_path):
    (tmp_path / "net.dwn").write_bytes(b"no such file")
    with pytest.raises(ContainerError, match=r"not a \.dwn file"):
        export_file(tmp_path / "net.dwn", "c")
    with pytest.raises(ContainerError, match="cannot read"):
        export_file(tmp_path / "absent.dwn", "c")
    with pytest.raises(SettingError, match="cannot become 'cpp'; the nearest known one is 'c'"):
        export_file(tmp_path / "net.dwn", "cpp")


def test_a_disk_that_refuses(contents, tmp_path):
    write(tmp_path / "net.dwn", contents)
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"cannot write .*; free space or choose another folder"):
        export_file(tmp_path / "net.dwn", "c", tmp_path / "file" / "net")
