"""This file takes derivatives of the validation loss with respect to some weights of a network in eval mode."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dwindle.errors import NetworkError


@contextmanager
def differentiable(network: nn.Module, weights: Mapping[str, nn.Parameter]) -> Generator[None]:
    """Let `weights` of `network`, a twin that nobody else uses, have derivatives, the second included; nothing else.

    What the network draws at random is drawn from a copy of the global generator of the processor.

    Raises:
        NetworkError: torch records nothing at all now.
    """
    if torch.is_inference_mode_enabled():
        raise NetworkError("no derivatives can be taken in torch.inference_mode(); judge layers outside of it")
    for parameter in network.parameters():
        parameter.requires_grad = False
    for weight in weights.values():
        weight.requires_grad = True
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the fused kernels of attention have no second derivative
        if any(isinstance(module, nn.RNNBase) for module in network.modules()):
            # cuDNN differentiates recurrent layers in training mode only.
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def gradients(
    value: Tensor, weights: Mapping[str, nn.Parameter], *, again: bool = False, keep: bool = False
) -> dict[str, Tensor]:
    """Return the gradient of `value`, a scalar, by name; a weight that it does not depend on has none.

    Args:
        value: what is differentiated.
        weights: with respect to what.
        again: whether the gradients shall have derivatives in turn.
        keep: whether `value` will be differentiated once more.

    Raises:
        NetworkError: an operation has no derivative.
    """
    if not value.requires_grad:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")
            found = cast(
                "tuple[Tensor | None, ...]",
                torch.autograd.grad(
                    value, list(weights.values()), create_graph=again, retain_graph=keep or again, allow_unused=True
                ),
            )
    except (RuntimeError, NotImplementedError) as error:
        raise NetworkError(
            f"the loss has no {'second ' if keep else ''}derivative: {type(error).__name__}: {error}; LossSensitivity "
            "needs none"
        ) from error
    if again and any(_refuses(gradient) for gradient in found if gradient is not None):
        raise NetworkError(
            "the loss has no second derivative: an autograd function of the network is differentiable once; "
            "LossSensitivity needs none"
        )
    return {name: gradient for name, gradient in zip(weights, found, strict=True) if gradient is not None}


def _refuses(gradient: Tensor) -> bool:
    """Tell whether `gradient` comes through a function that must not be differentiated twice.

    Torch raises only where the way to a weight leads through it; where it is cut off there, the gradient would silently
    be taken for a constant.
    """
    seen: set[Any] = set()
    pending: list[Any] = [gradient.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            return True
        seen.add(node)
        pending.extend(source for source, _ in node.next_functions)
    return False


def require_finite_traces(traces: Mapping[str, Tensor], what: str) -> None:
    """Refuse traces, by weight, that are NaN or infinite.

    Raises:
        NetworkError: one is.
    """
    for name, trace in traces.items():
        if not bool(trace.isfinite().all()):
            raise NetworkError(
                f"the {what} of the loss with respect to {name!r} is NaN or infinite; LossSensitivity needs no "
                "derivatives"
            )
