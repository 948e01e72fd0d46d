"""This file lays a network out for training, and gives it back as it was found: modes, device, memory format."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn

from dwindle.network.inputs import Inputs, as_tuple


@contextmanager
def left_as_found(network: nn.Module) -> Generator[None]:
    """Give back modes, device and memory format."""
    modes = {module: module.training for module in network.modules()}
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    was_channels_last = _is_channels_last(network)
    try:
        yield
    finally:
        network.to(device)
        if not was_channels_last and _is_channels_last(network):
            network.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue, reportArgumentType]
        for module, was_training in modes.items():
            module.training = was_training
        for parameter in network.parameters():
            parameter.grad = None


def put_channels_last(network: nn.Module, inputs: Inputs) -> None:
    """Put the kernels of `network` channels last, in place, where one of its inputs is a batch of images."""
    has_images = any(tensor.ndim == 4 for tensor in as_tuple(inputs))
    if has_images and all(tensor.ndim < 5 for tensor in network.state_dict().values()):
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue, reportArgumentType]


def _is_channels_last(network: nn.Module) -> bool:
    kernels = [p for p in network.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    return bool(kernels) and all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
