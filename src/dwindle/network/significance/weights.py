"""This file finds the weights that a criterion is asked about, and makes a twin of the network to try things on."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from dwindle.errors import NetworkError, SelectionError
from dwindle.settings import nearest


def own_names(network: nn.Module, names: Sequence[str]) -> dict[str, str]:
    """Return for each of `names` the first name of its parameter, which another name may share.

    Raises:
        SelectionError: the network has no such parameter.
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    first = {id(parameter): name for name, parameter in network.named_parameters()}
    for name in names:
        if name not in parameters:
            raise SelectionError(f"{type(network).__name__} has no parameter {name!r}; {nearest(name, parameters)}")
    return {name: first[id(parameters[name])] for name in names}


def weights_of(network: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """Return the parameters by name, in the order of `names`.

    Raises:
        SelectionError: the network has no such parameter, or it holds no floats.
        NetworkError: one of them is NaN or infinite.
    """
    own = own_names(network, names)
    parameters = {name: network.get_parameter(first) for name, first in own.items()}
    for name, parameter in parameters.items():
        if not parameter.is_floating_point():
            raise SelectionError(f"{name!r} holds {parameter.dtype}, no floats; leave it out of the selection")
        if not bool(torch.isfinite(parameter).all()):
            raise NetworkError(f"the weights of {name!r} hold NaN or infinity; load a sound checkpoint")
    return parameters


def twin_of(network: nn.Module) -> nn.Module:
    """Return a copy in eval mode; what is done to it does not reach `network`.

    Raises:
        NetworkError: the network cannot be copied.
    """
    try:
        return copy.deepcopy(network).eval()
    except Exception as error:  # a user's own code
        raise NetworkError(
            f"{type(network).__name__} cannot be copied: {type(error).__name__}: {error}; remove parametrizations and "
            "tensors that are no leaves before layers are judged"
        ) from error
