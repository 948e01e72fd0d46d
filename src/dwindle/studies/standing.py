"""This file says where a study stands: which outcomes its ledger holds, and what failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dwindle.bench.ledger import Entry, Ledger

OUTCOME: Final = "outcome"
FAILURE: Final = "failure"


@dataclass(kw_only=True, eq=False)
class Standing:
    """What a ledger holds; read again only where it has grown, because hundreds of outcomes are looked up often.

    Attributes:
        entries: everything in the ledger, in order.
        outcomes: what its entries of kind `outcome` hold.
        done: their keys.
        failures: what its entries of kind `failure` hold.
    """

    ledger: Ledger
    entries: tuple[Entry, ...] = ()
    outcomes: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    done: frozenset[str] = frozenset()
    failures: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    _n_bytes: int = -1

    def refresh(self) -> None:
        """Look again.

        Raises:
            LedgerError: the ledger cannot be read, or a line of it is damaged.
        """
        n_bytes = self.ledger.path.stat().st_size if self.ledger.path.exists() else 0
        if n_bytes == self._n_bytes:
            return
        self.entries = self.ledger.read() if n_bytes else ()
        self.outcomes = [entry.data for entry in self.entries if entry.kind == OUTCOME and "key" in entry.data]
        self.done = frozenset(str(data["key"]) for data in self.outcomes)
        self.failures = [entry.data for entry in self.entries if entry.kind == FAILURE and "key" in entry.data]
        self._n_bytes = n_bytes  # from before the read: what is written meanwhile is read the next time
