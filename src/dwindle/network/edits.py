"""This file makes the structural edits of a compressed model again, on the network as its code builds it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Final, assert_never

from torch import nn

from dwindle.errors import NetworkError
from dwindle.network.batchnorm import put_identity
from dwindle.network.compressed import Edit, FoldedBatchNorm, RemovedChannels, Replaced
from dwindle.network.surgery import reshape
from dwindle.settings import TAG, from_plain

EDITS: Final = {c.__name__: c for c in (FoldedBatchNorm, RemovedChannels, Replaced)}
NO_NETWORKS: Final[Mapping[str, nn.Module]] = {}


def apply_edits(
    network: nn.Module, edits: Iterable[Edit], networks: Mapping[str, nn.Module] = NO_NETWORKS
) -> nn.Module:
    """Return a copy of `network` with the structural `edits` made; values of new or cut parameters are zero.

    Args:
        network: stays as it is.
        edits: in the order in which they were made.
        networks: what `Replaced` edits name.

    Raises:
        NetworkError: an edit names a module, a tensor or a network that is not there.
    """
    network = copy.deepcopy(network)
    for edit in edits:
        match edit:
            case FoldedBatchNorm(layer, batchnorm):
                put_identity(network, layer=layer, batchnorm=batchnorm)
            case RemovedChannels(shapes):
                reshape(network, shapes)
            case Replaced(name):
                network = copy.deepcopy(_named(networks, name))
            case _:
                assert_never(edit)
    return network


def own_edits(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """Return the edits of the network that is deployed: those since it last replaced another one."""
    since: list[Edit] = []
    for edit in edits:
        since = [] if isinstance(edit, Replaced) else [*since, edit]
    return tuple(since)


def edit_from_plain(plain: Mapping[str, Any], *, where: str) -> Edit:
    """Return the edit that `to_plain` turned into `plain`.

    Raises:
        NetworkError: a kind of edit that this version does not know.
        SettingError: a key is unknown or missing, or a value has the wrong type.
    """
    kind = str(plain.get(TAG, FoldedBatchNorm.__name__))
    if kind not in EDITS:
        raise NetworkError(
            f"{where}: this version knows no structural edit {kind!r} (it knows {', '.join(sorted(EDITS))}); a later "
            "version of dwindle may"
        )
    return from_plain(EDITS[kind], plain, where=where)


def _named(networks: Mapping[str, nn.Module], name: str) -> nn.Module:
    if name not in networks:
        raise NetworkError(
            f"the model was exchanged for a network named {name!r}, which is not at hand; give it in networks "
            f"(there are: {', '.join(sorted(networks)) or 'none'})"
        )
    return networks[name]
