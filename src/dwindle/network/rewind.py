"""This file takes a network back to where it was early in its training; zeros that it got since then stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from dwindle.core.encoding import Dense, Encoding, Half, Sparse, describe
from dwindle.core.half import to_half
from dwindle.errors import NetworkError, RecipeError, SettingError
from dwindle.network.compressed import CompressedModel

_REMEDY: Final = "give the context the same network early in its training: Context(early=network)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewind:
    """After pruning, train again as if the zeros had been there early on; prune in rounds where there are several.

    Attributes:
        to: "weights": what stays goes back to its value early in training, biases, batch norms and their statistics
            too (Frankle and Carbin 2019; Frankle et al. 2020). "learning_rate": values stay as they are; only the
            learning rate begins anew (Renda et al. 2020).
        rounds: how many times the network is pruned and trained; each round takes the same share of what is left.
    """

    to: Literal["weights", "learning_rate"] = "weights"
    rounds: int = 1

    def __post_init__(self) -> None:
        if self.to not in {"weights", "learning_rate"}:
            raise SettingError(f"Rewind: to is 'weights' or 'learning_rate', got {self.to!r}")
        given: Any = self.rounds
        if type(given) is not int or given < 1:
            raise SettingError(f"Rewind: rounds counts trainings from 1, got {given!r}")

    @property
    def needs_early(self) -> bool:
        """Whether values of early in training are wanted."""
        return self.to == "weights"


def rewound(model: CompressedModel, early: nn.Module | None) -> CompressedModel:
    """Return `model` with every value as it is in `early`: parameters and buffers; what is pruned stays zero.

    Raises:
        RecipeError: there is no early network, or a tensor is stored in a way that has no values of its own.
        NetworkError: `early` has other tensors than the model's network, or holds NaN.
    """
    if early is None:
        raise RecipeError(f"rewinding to early weights needs these weights; {_REMEDY}")
    values = CompressedModel.dense(early).network.state_dict()
    _require_same_tensors(model, values)
    return model.with_encodings(
        {name: _with_values(name, encoding, values[name]) for name, encoding in model.encodings.items()}
    )


def _with_values(name: str, encoding: Encoding, values: Tensor) -> Encoding:
    values = values.detach().cpu().clone(memory_format=torch.contiguous_format)
    match encoding:
        case Dense():
            return Dense(values)
        case Half():
            return to_half(values)
        case Sparse(support, Dense() | Half() as inner):
            kept = torch.where(support, values, torch.zeros((), dtype=values.dtype))
            return Sparse(support, to_half(kept) if isinstance(inner, Half) else Dense(kept))
        case _:
            raise RecipeError(
                f"{name!r} is {describe(encoding)}: it has no values of its own that could go back to what they were; "
                "rewind before the step that shares, quantizes or folds weights"
            )


def _require_same_tensors(model: CompressedModel, values: Mapping[str, Tensor]) -> None:
    now = model.network.state_dict()
    missing = sorted(set(now) - set(values)) + sorted(set(values) - set(now))
    if missing:
        raise NetworkError(f"the early network and the one to prune differ in the tensors {missing[:5]}; {_REMEDY}")
    for name, tensor in now.items():
        if tensor.shape != values[name].shape or tensor.dtype != values[name].dtype:
            raise NetworkError(
                f"{name!r} is {values[name].dtype} of shape {tuple(values[name].shape)} in the early network and "
                f"{tensor.dtype} of shape {tuple(tensor.shape)} now; {_REMEDY}, and rewind before channels are removed"
            )
