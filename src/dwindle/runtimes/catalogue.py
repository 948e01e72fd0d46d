"""This file names the engines that run a file without further settings, and finds one for a format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from dwindle.errors import RuntimeUnavailableError, SettingError
from dwindle.runtimes.protocol import Runtime
from dwindle.settings import nearest


def _onnxruntime() -> Runtime:
    from dwindle.runtimes.onnxruntime import OnnxRuntime

    return OnnxRuntime()


def _litert() -> Runtime:
    from dwindle.runtimes.litert import LiteRtRuntime

    return LiteRtRuntime()


def _executorch() -> Runtime:
    from dwindle.runtimes.executorch import ExecuTorchRuntime

    return ExecuTorchRuntime()


def _openvino() -> Runtime:
    from dwindle.runtimes.openvino import OpenVinoRuntime

    return OpenVinoRuntime()


RUNTIMES: Final[Mapping[str, Callable[[], Runtime]]] = {
    "onnxruntime": _onnxruntime,
    "litert": _litert,
    "executorch": _executorch,
    "openvino": _openvino,
}
"""Runtimes that need no settings, the preferred one of a format first; others are given as objects."""


def engine_of(runtime: Runtime | str) -> Runtime:
    """Return the runtime called `runtime`, or `runtime` itself if it is one.

    Raises:
        SettingError: an unknown name.
        RuntimeUnavailableError: its package is missing.
    """
    if isinstance(runtime, str):
        if runtime not in RUNTIMES:
            raise SettingError(f"unknown runtime {runtime!r}; {nearest(runtime, RUNTIMES)}, or pass a runtime object")
        runtime = RUNTIMES[runtime]()
    if (reason := runtime.unavailable()) is not None:
        raise RuntimeUnavailableError(reason)
    return runtime


def engine_for(file_format: str) -> Runtime:
    """Return the first engine that loads files of `file_format`.

    Raises:
        SettingError: no engine knows the format.
        RuntimeUnavailableError: none of those that do is installed.
    """
    engines = [engine for make in RUNTIMES.values() if file_format in (engine := make()).formats]
    if not engines:
        known = sorted({known for make in RUNTIMES.values() for known in make().formats})
        raise SettingError(f"no engine runs {file_format!r} files; {nearest(file_format, known)}")
    reasons = [engine.unavailable() for engine in engines]
    found = next((engine for engine, reason in zip(engines, reasons, strict=True) if reason is None), None)
    if found is None:
        raise RuntimeUnavailableError("; ".join(reason for reason in reasons if reason))
    return found
