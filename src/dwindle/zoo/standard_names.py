"""This file loads checkpoints with the names of torchvision and timm into the networks of the zoo, from safetensors.

| network | torchvision | timm |
|---|---|---|
| `resnet18`, `resnet50` | same names | same names (`resnet18`, `resnet50`) |
| `vgg16` | same names | renamed (`vgg16`); its two hidden layers are 7 x 7 and 1 x 1 convolutions there |
| `mobilenet_v2` | same names | renamed (`mobilenetv2_100`) |
| `mobilenet_v1` | | same names (`mobilenetv1_100`) |

Older files have no `num_batches_tracked`; the network then keeps its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Final

from torch import Tensor, nn

from dwindle.network.checkpoint import load_tensors, read_safetensors
from dwindle.zoo.mobilenet_v2 import SETTINGS

COUNTER: Final = ".num_batches_tracked"
WRAPPER: Final = "module."
"""What data-parallel training puts before every name."""
_VGG16: Final = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}
_MOBILENET_V2: Final = {
    "conv_stem": "features.0.0",
    "bn1": "features.0.1",
    "conv_head": "features.18.0",
    "bn2": "features.18.1",
    "classifier": "classifier.1",
}
_EXPANDED: Final = {
    "conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2", "bn3": "3",
}  # fmt: skip
_UNEXPANDED: Final = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
_FIRST_BLOCKS: Final = tuple(accumulate((n_blocks for _, _, n_blocks, _ in SETTINGS), initial=1))


def load_standard(network: nn.Module, path: Path) -> None:
    """Load a torchvision or timm checkpoint, a safetensors file, into the zoo's network of that name, in place.

    Raises:
        CheckpointError: the file is absent, is not safetensors, or fits the network under none of the known namings.
        NetworkError: a weight is NaN or infinite.
    """
    stored = read_safetensors(Path(path))
    if all(name.startswith(WRAPPER) for name in stored):
        stored = {name.removeprefix(WRAPPER): tensor for name, tensor in stored.items()}
    wanted = network.state_dict()
    load_tensors(network, _fitted(_renamed(stored, wanted), wanted), origin=str(path))


def timm_vgg16(name: str) -> str:
    """Return our name of a tensor of timm's `vgg16`.

    >>> timm_vgg16("pre_logits.fc1.weight")
    'classifier.0.weight'
    """
    layer, _, tensor = name.rpartition(".")
    return f"{_VGG16.get(layer, layer)}.{tensor}"


def timm_mobilenet_v2(name: str) -> str:
    """Return our name of a tensor of timm's `mobilenetv2_100`; one that it does not have stays as it is.

    >>> timm_mobilenet_v2("blocks.1.0.conv_pwl.weight"), timm_mobilenet_v2("bn1.bias")
    ('features.2.conv.2.weight', 'features.0.1.bias')
    """
    layer, _, tensor = name.rpartition(".")
    if found := re.fullmatch(r"blocks\.([0-6])\.(\d+)\.(\w+)", layer):
        stage, block, part = int(found[1]), int(found[2]), found[3]
        parts = _UNEXPANDED if stage == 0 else _EXPANDED
        return f"features.{_FIRST_BLOCKS[stage] + block}.conv.{parts.get(part, part)}.{tensor}"
    return f"{_MOBILENET_V2.get(layer, layer)}.{tensor}"


NAMINGS: Final[tuple[Callable[[str], str], ...]] = (str, timm_vgg16, timm_mobilenet_v2)
"""Each maps a checkpoint's name to ours; the first is the identity."""


def _renamed(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the first naming that gives names of the network only, else as they are."""
    for naming in NAMINGS:
        renamed = {naming(name): tensor for name, tensor in stored.items()}
        if renamed.keys() <= wanted.keys():
            return renamed
    return dict(stored)


def _fitted(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with a convolution that stands for a linear layer made flat, and absent counters filled in."""
    fitted = dict(stored)
    for name, tensor in wanted.items():
        if name not in stored:
            if name.endswith(COUNTER):
                fitted[name] = tensor
        elif tensor.ndim == 2 and stored[name].ndim == 4:
            fitted[name] = stored[name].flatten(1)
    return fitted
