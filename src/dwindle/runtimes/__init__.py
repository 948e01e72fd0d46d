"""One file for each engine that can run a deployed file."""
