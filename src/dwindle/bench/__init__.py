"""This package measures deployed files: probes, protocols, budgets, and the ledger that keeps what was found."""
