"""This package holds the probes: one file for each thing that is measured."""
