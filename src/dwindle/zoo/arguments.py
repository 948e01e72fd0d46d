"""This file checks what the builders of the zoo are given."""

from __future__ import annotations

from dwindle.errors import SettingError


def require_positive(builder: str, /, **counts: int) -> None:
    """Raise where one of `counts` (channels, classes, sizes) is below 1; `builder` opens the message.

    Raises:
        SettingError: it is; every value is named.

    >>> require_positive("resnet18", in_channels=3, n_classes=10)
    """
    if min(counts.values()) < 1:
        values = ", ".join(f"{name}={value}" for name, value in counts.items())
        raise SettingError(f"{builder}: {values}: each must be at least 1")
