"""This file holds the protocol of an energy sensor: something that tells how many joules went by."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

Joules = Callable[[], float]
"""Returns the joules since some moment; it never falls. Only differences mean anything."""


class Sensor(Protocol):
    """What measures energy. Two readings that lie closer than `update_seconds` may be equal."""

    @property
    def name(self) -> str:
        """Name of the sensor, as it stands in a measurement: `RAPL package-0`."""
        ...

    @property
    def covers(self) -> str:
        """What its energy is spent on, in words: all of that, whoever uses it."""
        ...

    @property
    def update_seconds(self) -> float:
        """Time between two updates of its figure."""
        ...

    def opened(self) -> AbstractContextManager[Joules]:
        """Begin to read; leaving the context ends it."""
        ...
