"""This file builds any network of timm or torchvision by name; both are optional packages."""

from __future__ import annotations

import difflib
import importlib
import sys
from types import ModuleType
from typing import Any, Final

import torch
from torch import nn

from dwindle.errors import RuntimeUnavailableError, SettingError
from dwindle.zoo.arguments import require_positive

INSTALL: Final = "pip install 'dwindle[vision]'"
SCHEMAS: Final = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""torchvision's operators that its import looks up, though no classifier calls them."""
_defined: list[torch.library.Library] = []  # a library that is let go takes its schemas along


def vision_network(name: str, *, n_classes: int = 1000, in_channels: int = 3) -> nn.Module:
    """Return the network that timm or torchvision calls `name`, with random weights from torch's global generator.

    Args:
        name: such as `"mobilenetv3_small_100"`. A name that both know is timm's; `"torchvision/resnet18"` and
            `"timm/resnet18"` choose. For trained weights load a safetensors file with `load_checkpoint`.
        n_classes: number of outputs.
        in_channels: channels of an input; torchvision's networks take 3 only.

    Input and output are the network's own, mostly (batch, in_channels, 224, 224) and logits (batch, n_classes).

    Raises:
        RuntimeUnavailableError: the packages are not installed.
        SettingError: neither knows the name, a count is below 1, or torchvision is asked for other than 3 channels.
    """
    require_positive("vision_network", n_classes=n_classes, in_channels=in_channels)
    library, slash, rest = name.partition("/")
    if not slash:
        library, rest = "", name
    elif library not in {"timm", "torchvision"}:
        raise SettingError(
            f"vision_network: {name!r} starts with no known library; write timm/NAME or torchvision/NAME"
        )
    models = _import_models()
    if library != "torchvision" and models["timm"].is_model(rest):
        return models["timm"].create_model(rest, pretrained=False, num_classes=n_classes, in_chans=in_channels)
    if library != "timm" and rest in models["torchvision"].list_models():
        if in_channels != 3:
            raise SettingError(
                f"vision_network: {rest!r} of torchvision takes 3 input channels, got in_channels={in_channels}; "
                "timm's networks take any number"
            )
        return models["torchvision"].get_model(rest, weights=None, num_classes=n_classes)
    known = {*models["timm"].list_models(), *models["torchvision"].list_models()}
    close = difflib.get_close_matches(rest, sorted(known), n=3, cutoff=0.0)
    raise SettingError(f"vision_network: unknown network {name!r} among {len(known):,}; the nearest names are {close}")


def _import_models() -> dict[str, Any]:
    """Return the two packages' model modules; torchvision is first, because timm imports it."""
    torchvision = _import_torchvision()
    return {"torchvision": torchvision.models, "timm": _import("timm")}


def _import_torchvision() -> Any:
    """Import torchvision, also where its compiled operators do not load (a build for another device, say).

    Its Python part then looks up operators that nobody has registered. Their schemas are all that it needs; calling
    such an operator still fails.
    """
    try:
        return _import("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _defined:
            raise RuntimeUnavailableError(
                f"torchvision is installed but does not load ({error}); install the build for torch {torch.__version__}"
            ) from error
    library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
    _defined.append(library)
    for half_made in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
        del sys.modules[half_made]
    return _import("torchvision")


def _import(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise RuntimeUnavailableError(f"networks of {package} need {error.name}: {INSTALL}") from error
