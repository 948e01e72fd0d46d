"""This file says how much each coupled channel of a network matters: by its weights, its batch norm, or the loss.

- `l1`, `l2`: the sum of |w|^p over everything that computes or reads a channel, averaged over the tensors of its group
  (Li et al., "Pruning Filters for Efficient ConvNets", 2017; over whole groups: Fang et al., "DepGraph", 2023).
- `batchnorm`: the magnitude of the factors that scale it (Liu et al., "Network Slimming", 2017).
- `taylor`: the square of the first-order change of the loss if it went, (sum of gradient * weight)^2, averaged over
  batches (Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019, eq. 8).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor, nn

from dwindle.core.channels import sum_by_channel
from dwindle.errors import NetworkError
from dwindle.network.coupled import Group, Slot
from dwindle.network.train import Batch, Trainer

Importance = Literal["l1", "l2", "batchnorm", "taylor"]
NO_STEP: Final = 1e-12
"""A learning rate too small to move a weight: gradients are wanted, not training."""


def weight_scores(network: nn.Module, groups: Sequence[Group], *, power: int) -> dict[str, Tensor]:
    """Return the mean over a group's tensors of the sum of |w|^`power`, (n_channels,) for each group."""
    tensors = network.state_dict()
    scores: dict[str, Tensor] = {}
    for group in groups:
        slots = [slot for slot in group.slots if slot.role in {"output", "input"}]
        values = [tensors[slot.tensor].detach().cpu().double().abs().pow(power) for slot in slots]
        scores[group.name] = _mean(values, slots, group)
    return scores


def batchnorm_scores(network: nn.Module, groups: Sequence[Group]) -> dict[str, Tensor]:
    """Return the mean magnitude of the batch norm factors of each channel, (n_channels,) for each group.

    Raises:
        NetworkError: a group has no batch norm.
    """
    tensors, scores = network.state_dict(), dict[str, Tensor]()
    for group in groups:
        factors = [slot for slot in group.slots if slot.role == "norm" and tensors[slot.tensor].ndim == 1]
        if not factors:
            raise NetworkError(
                f"the outputs of {group.name!r} pass no batch norm with factors, which importance 'batchnorm' ranks; "
                "use importance='l2', or select layers with a batch norm"
            )
        scores[group.name] = _mean([tensors[slot.tensor].detach().cpu().abs() for slot in factors], factors, group)
    return scores


def taylor_scores(
    network: nn.Module, groups: Sequence[Group], *, trainer: Trainer, n_batches: int, seed: int, stage: str
) -> dict[str, Tensor]:
    """Return how much the trainer's loss changes without each channel, (n_channels,) for each group.

    To first order, squared, averaged over batches. The trainer shows `n_batches` batches to a copy of `network`. There
    frozen parameters count like any other, since they are cut, too. The sums are buffers of the copy, so a killed run
    goes on with what it has seen.
    """
    twin = copy.deepcopy(network)
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    sums = _Sums(twin, groups)
    trainer(
        twin,
        steps=n_batches,
        seed=seed,
        stage=stage,
        learning_rate=NO_STEP,
        loss=_Gather(twin, sums, groups),
        after_step=_nothing,  # a trainer with patience runs to the end
    )
    return {group.name: sums.of(number).cpu() / n_batches for number, group in enumerate(groups)}


class _Sums:
    """One buffer of a network for each group; they travel with the checkpoints of its training.

    They are no module of it: containers such as `nn.Sequential` call every module that they hold.
    """

    def __init__(self, network: nn.Module, groups: Sequence[Group]) -> None:
        self._network = network
        for number, group in enumerate(groups):
            network.register_buffer(f"{_NAME}_{number}", torch.zeros(group.n_channels, dtype=torch.float64))

    def of(self, number: int) -> Tensor:
        return self._network.get_buffer(f"{_NAME}_{number}")


class _Gather:
    """A loss that teaches nothing and adds up (gradient * weight)^2 for each channel."""

    def __init__(self, network: nn.Module, sums: _Sums, groups: Sequence[Group]) -> None:
        self._sums = sums
        self._groups = groups
        parameters = dict(network.named_parameters())
        wanted = {slot.tensor for group in groups for slot in group.slots if slot.role in {"output", "bias", "norm"}}
        self._parameters = {name: parameters[name] for name in sorted(wanted & parameters.keys())}

    def __call__(self, output: Any, batch: Batch, base_loss: Tensor) -> Tensor:
        del output, batch
        parameters = self._parameters
        found: Any = torch.autograd.grad(base_loss, [*parameters.values()], retain_graph=True, allow_unused=True)
        gradients = cast("Sequence[Tensor | None]", found)
        products = {
            name: (gradient * parameter).detach()
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
            if gradient is not None
        }
        for number, group in enumerate(self._groups):
            parts = [
                _by_channel(products[slot.tensor].cpu(), slot, group)
                for slot in group.slots
                if slot.role != "input" and slot.tensor in products
            ]
            if parts:
                held = self._sums.of(number)
                held += torch.stack(parts).sum(dim=0).square().to(held.device)
        return base_loss * 0.0


_NAME: Final = "sums_of_channel_scores"


def _by_channel(values: Tensor, slot: Slot, group: Group) -> Tensor:
    return sum_by_channel(values, slot.axis, torch.tensor(slot.channels), n_channels=group.n_channels)


def _mean(values: Sequence[Tensor], slots: Sequence[Slot], group: Group) -> Tensor:
    """Return the sums of `values` by channel, averaged over the slots in which a channel lies."""
    sums = torch.stack([_by_channel(one, slot, group) for one, slot in zip(values, slots, strict=True)])
    present = torch.stack([_by_channel(torch.ones(len(slot.channels)), replace(slot, axis=0), group) for slot in slots])
    return sums.sum(dim=0) / (present > 0).sum(dim=0).clamp(min=1)


def _nothing(step: int) -> None:
    del step
