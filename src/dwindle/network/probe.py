"""This file makes random inputs that a network answers: what it is tried out on, instead of an example of any values.

An example may be all zero, and then tells nothing of a network without biases. Random values with the example's mean
and deviation do; where the network does not answer them with numbers (it takes logarithms, or looks numbers up in a
table), values that the example itself holds take their place.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dwindle.errors import NetworkError
from dwindle.network.capture import run_on_example
from dwindle.network.inputs import Inputs, as_tuple, call, describe, tensors_in


def probe_for(network: nn.Module, example: Inputs, *, seed: int) -> Inputs:
    """Return random inputs of the scale of `example` that `network`, in eval mode, answers; whole numbers are kept.

    Its answers to them are finite; where they are to none, some are infinite, as scores of classes that are ruled out.

    Raises:
        NetworkError: the network does not run on the example, or answers neither it nor random inputs with numbers.
    """
    tensors = tuple(one.cpu() for one in as_tuple(example))
    example = tensors[0] if isinstance(example, Tensor) else tensors
    fallback: Inputs | None = None
    for probe in _candidates(example, torch.Generator().manual_seed(seed)):
        answers = _answers(network, probe)
        if answers is None:
            continue
        if all(bool(one.isfinite().all()) for one in answers):
            return probe
        are_numbers = not any(bool(one.isnan().any()) for one in answers)
        if fallback is None and are_numbers and any(bool(one.isfinite().any()) for one in answers):
            fallback = probe
    if fallback is not None:
        return fallback
    run_on_example(network, example)
    raise NetworkError(
        f"{type(network).__name__} does not answer random inputs like the example, {describe(example)}, with finite "
        "numbers, so what its channels are coupled with cannot be tried out; give an example of real data, whose "
        "values differ and which the network answers with finite numbers"
    )


def _candidates(example: Inputs, generator: torch.Generator) -> Iterator[Inputs]:
    tensors = as_tuple(example)
    for make in (_normal, _drawn):
        made = [make(one, generator) if one.is_floating_point() else one for one in tensors]
        yield made[0] if isinstance(example, Tensor) else tuple(made)
    floats = [one for one in tensors if one.is_floating_point()]
    if not floats or any(_deviation(one) for one in floats):
        yield example


def _normal(one: Tensor, generator: torch.Generator) -> Tensor:
    """Return normally distributed values with the mean and the deviation of `one`; 1 where its values are all equal."""
    noise = torch.randn(one.shape, generator=generator, dtype=torch.float64)
    return (_mean(one) + (_deviation(one) or 1.0) * noise).to(one.dtype)


def _drawn(one: Tensor, generator: torch.Generator) -> Tensor:
    """Return values out of `one` in random order; where they are all equal, random ones that are larger."""
    if not _deviation(one):
        noise = torch.randn(one.shape, generator=generator, dtype=torch.float64).abs()
        return (_mean(one) + noise).to(one.dtype)
    held = _finite(one)
    return held[torch.randint(held.numel(), one.shape, generator=generator)]


def _finite(one: Tensor) -> Tensor:
    return one[one.isfinite()]


def _mean(one: Tensor) -> float:
    held = _finite(one).double()
    return float(held.mean()) if held.numel() else 0.0


def _deviation(one: Tensor) -> float:
    held = _finite(one).double()
    return float(held.std(correction=0)) if held.numel() else 0.0


def _answers(network: nn.Module, probe: Inputs) -> list[Tensor] | None:
    try:
        with torch.no_grad():
            return tensors_in(call(network, probe))
    except Exception:  # ruff: ignore[blind-except] (any code may raise here; that of the example is told)
        return None
