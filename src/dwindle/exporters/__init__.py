"""One file for each target that a compressed model can be written for."""
