"""This file is the fresh process of the memory probe: it loads one file in one engine, runs it, reports its memory.

It takes its orders as one JSON object on stdin and answers with one in a file that they name, for engines write to
stdout as they like. It does not import the caller's script,
and with onnxruntime, LiteRT and OpenVINO no torch, so that what it reports is what a device would need that has Python
and the engine, and nothing else. ExecuTorch's binding for Python imports torch itself, some 300 MB that no device
holds: they are in the baseline and in the peak, so engines are compared by what a file adds to the baseline.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from dwindle.artifact import Artifact
from dwindle.runtimes.protocol import Runtime

_STATUS: Final = Path("/proc/self/status")


def _onnxruntime(settings: Mapping[str, Any]) -> Runtime:
    import onnxruntime  # part of the baseline: the engine's own code is not the file's doing

    from dwindle.runtimes.onnxruntime import OnnxRuntime

    del onnxruntime
    return OnnxRuntime(**settings)


def _litert(settings: Mapping[str, Any]) -> Runtime:
    from dwindle.runtimes.litert import LiteRtRuntime

    import_module("ai_edge_litert.interpreter")
    return LiteRtRuntime(**settings)


def _executorch(settings: Mapping[str, Any]) -> Runtime:
    from dwindle.runtimes.executorch import ExecuTorchRuntime

    import_module("executorch.extension.pybindings.portable_lib")
    return ExecuTorchRuntime(**settings)


def _openvino(settings: Mapping[str, Any]) -> Runtime:
    from dwindle.runtimes.openvino import OpenVinoRuntime

    import_module("openvino").Core()  # loads the code that all files share
    return OpenVinoRuntime(**settings)


ENGINES: Final[Mapping[str, Callable[[Mapping[str, Any]], Runtime]]] = {
    "OnnxRuntime": _onnxruntime,
    "LiteRtRuntime": _litert,
    "ExecuTorchRuntime": _executorch,
    "OpenVinoRuntime": _openvino,
}
"""Engines that a fresh process can build from plain settings, by the name of their class."""


def main() -> None:
    """Read orders from stdin, carry them out, write down what was found."""
    orders = json.load(sys.stdin)
    Path(orders["answer"]).write_text(json.dumps(run(orders)), encoding="utf-8")


def run(orders: Mapping[str, Any]) -> dict[str, Any]:
    """Return resident bytes after the imports, after loading and at the peak, their source, and whether torch is in."""
    engine = ENGINES[orders["engine"]](orders["settings"])
    path = Path(orders["path"])
    artifact = Artifact(path=path, format=orders["format"], sha256="", size_bytes=0)
    with np.load(orders["inputs"], allow_pickle=False) as stored:
        inputs = tuple(stored[name] for name in stored.files)
    baseline, has_torch = resident_bytes(), "torch" in sys.modules
    with engine.load(artifact, n_threads=orders["n_threads"]) as session:
        loaded = resident_bytes()
        for _ in range(orders["n_runs"]):
            session.run(*inputs)
        found = {"baseline": baseline, "loaded": loaded, "peak": peak_bytes()}
        return {**found, "source": source(), "has_torch": has_torch}


def source() -> str:
    """Return where the figures come from: Linux tells of this process; elsewhere only the peak is known."""
    return "VmHWM" if "VmHWM" in _status() else "getrusage"


def resident_bytes() -> int:
    """Return the bytes in memory now; the peak so far where the system tells nothing else."""
    status = _status()
    return status["VmRSS"] if "VmRSS" in status else peak_bytes()


def peak_bytes() -> int:
    """Return the most bytes that were in memory at once."""
    status = _status()
    if "VmHWM" in status:
        return status["VmHWM"]
    import resource  # absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _status() -> dict[str, int]:
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name: 1024 * int(value.split()[0]) for name, _, value in pairs if value.strip().endswith("kB")}


if __name__ == "__main__":
    main()
