"""This file asks a network about one batch and leaves the network as it found it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dwindle.network.inputs import Inputs, as_tuple


@torch.no_grad()
def answer(network: nn.Module, example: Inputs) -> Any:
    """Return what `network` answers to `example` in eval mode, on its own device; modes are put back.

    What it draws from the global generator of the processor is drawn from a copy.
    """
    modes = {module: module.training for module in network.modules()}
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    network.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            return network(*(tensor.to(device) for tensor in as_tuple(example)))
    finally:
        for module, was_training in modes.items():
            module.training = was_training
