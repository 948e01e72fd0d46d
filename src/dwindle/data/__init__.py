"""Data sets: each module holds one loader that returns `Splits`; importing one costs no other."""
