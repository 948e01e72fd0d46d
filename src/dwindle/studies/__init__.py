"""This package runs the experiments of the literature, kept as data, and sets the outcome beside what was printed."""
