"""This package writes the report: one self-contained HTML file made from a ledger."""
