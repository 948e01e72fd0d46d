"""This file reads `--engine NAME` and `--engine NAME:setting=value,...` from a command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle.errors import SettingError

if TYPE_CHECKING:
    from dwindle.runtimes.protocol import Runtime

TORCH = "torch"
"""The one engine that needs more than a file: the network, in the user's own code."""
_WHOLE = re.compile(r"-?[0-9]{1,18}")


def engine_named(text: str, *, network: str | None = None) -> Runtime:
    """Return the engine that `text` names, with its settings: `openvino`, `onnxruntime:graph_level=basic,spins=true`.

    Args:
        text: name and settings.
        network: `package.module:function` or `file.py:function` that builds a network; for torch.

    Raises:
        SettingError: an unknown engine or setting, a value that does not fit, or torch without a network.
    """
    from dwindle.runtimes.catalogue import RUNTIMES
    from dwindle.settings import from_plain, nearest

    name, _, rest = text.partition(":")
    settings = [_setting(part, text) for part in rest.split(",") if part]
    given = dict(settings)
    if len(given) < len(settings):
        raise SettingError(f"--engine {text}: a setting is given twice; keep one of them")
    if name == TORCH:
        return _torch(text, network, given)
    if name not in RUNTIMES:
        raise SettingError(f"--engine {text}: unknown engine; {nearest(name, (*RUNTIMES, TORCH))}")
    return from_plain(type(RUNTIMES[name]()), given, where=f"--engine {text}")


def _torch(text: str, network: str | None, given: dict[str, Any]) -> Runtime:
    from dwindle.job.resolve import resolve
    from dwindle.runtimes.torch import TorchRuntime

    if given:
        raise SettingError(f"--engine {text}: torch takes no settings; write --engine torch")
    if network is None:
        raise SettingError("--engine torch needs the network: --network package.module:function, which builds it")
    return TorchRuntime(network=resolve(network, Path.cwd(), where="--network"))


def _setting(part: str, text: str) -> tuple[str, Any]:
    key, is_one, value = part.partition("=")
    if not is_one or not key.strip():
        raise SettingError(f"--engine {text}: {part!r} is no setting; write name=value")
    return key.strip(), _value(value.strip())


def _value(text: str) -> Any:
    """Return what is written: true and false, whole numbers, else the text itself."""
    if text in {"true", "false"}:
        return text == "true"
    return int(text) if _WHOLE.fullmatch(text) else text
