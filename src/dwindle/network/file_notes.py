"""This file makes a network again from what a file says about it: edits, tensors and activation quantizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from torch import Tensor, nn

from dwindle.errors import NetworkError, SettingError
from dwindle.network.activations import ActivationQuantizer, CallSite, DynamicQuantizer, LevelQuantizer, Quantizer
from dwindle.network.edits import apply_edits, edit_from_plain, own_edits
from dwindle.settings import TAG, from_plain

QUANTIZERS: Final[Mapping[str, type[Quantizer]]] = {
    c.__name__: c for c in (ActivationQuantizer, DynamicQuantizer, LevelQuantizer)
}


def edited_network(
    network: nn.Module | Callable[[], nn.Module], metadata: Mapping[str, Any], *, where: str
) -> nn.Module:  # fmt: skip
    """Return `network`, copied or built, with the structural edits that `metadata` tell of; values are not filled in.

    Args:
        network: of the architecture that was compressed, before any folding, or a function that builds it.
        metadata: of a `.dwn` file.
        where: the file, for messages.

    Raises:
        NetworkError: the function builds no network, or an edit does not fit it.
        SettingError: an edit in the file is malformed.
    """
    built = network if isinstance(network, nn.Module) else network()
    if not isinstance(built, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance] (users)
        raise NetworkError(f"what should build the network returns {type(built).__name__}; return a torch.nn.Module")
    edits = _tables(metadata.get("edits", []), where=f"{where}: edits")
    return apply_edits(built, own_edits([edit_from_plain(plain, where=f"{where}: edits") for plain in edits]))


def fill(network: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> nn.Module:
    """Return `network`, in eval mode, with the tensors of the file `where`, every one by its name.

    Raises:
        NetworkError: one is missing, left over, or has another shape.
    """
    try:
        network.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        details = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        raise NetworkError(
            f"{where} does not fit {type(network).__name__}: {details}; build the network that was compressed"
        ) from error
    return network.eval()


def activations_of(metadata: Mapping[str, Any], *, where: str) -> dict[CallSite, Quantizer]:
    """Return the activation quantizers that `metadata` of the file `where` hold; none where its network is float.

    Raises:
        NetworkError: a kind of quantizer that this version does not know, or a place that is none.
        SettingError: a key is unknown or missing, or a value has the wrong type.
    """
    plain = metadata.get("activations", {})
    if not isinstance(plain, Mapping):
        raise SettingError(f"{where}: activations must be a table, not {plain!r:.80}; deploy the model again")
    by_site = cast("Mapping[str, object]", plain)
    found: dict[CallSite, Quantizer] = {}
    for text, settings in zip(by_site, _tables([*by_site.values()], where=f"{where}: activations"), strict=True):
        kind = str(settings.get(TAG))
        if kind not in QUANTIZERS:
            raise NetworkError(
                f"{where}: this version knows no activation quantizer {kind!r} (it knows "
                f"{', '.join(sorted(QUANTIZERS))}); a later version of dwindle may"
            )
        found[_site(text, where)] = from_plain(QUANTIZERS[kind], settings, where=f"{where}: activations")
    return found


def n_dense_weights_of(metadata: Mapping[str, Any], network: nn.Module, *, where: str) -> int:
    """Return the number of weights of the dense network; the parameters of `network` where the file does not tell.

    Raises:
        SettingError: it is no number.
    """
    told = metadata.get("n_dense_weights")
    if told is None:
        return sum(parameter.numel() for parameter in network.parameters())
    if not isinstance(told, int):
        raise SettingError(f"{where}: n_dense_weights must be a number, not {told!r:.80}; deploy the model again")
    return told


def _tables(values: object, *, where: str) -> list[Mapping[str, Any]]:
    """Return `values`, a list of tables.

    Raises:
        SettingError: it is something else.
    """
    if not isinstance(values, list) or not all(isinstance(value, Mapping) for value in cast("list[object]", values)):
        raise SettingError(f"{where} must be tables, not {values!r:.80}; deploy the model again")
    return cast("list[Mapping[str, Any]]", values)


def _site(text: str, where: str) -> CallSite:
    module, *numbers = text.rsplit(":", 2)
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise NetworkError(
            f"{where}: {text!r} names no value of a network (module:call:output); deploy the model again"
        )
    return CallSite(module, *map(int, numbers))
