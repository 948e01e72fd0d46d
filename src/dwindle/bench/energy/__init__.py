"""This package reads how much energy a machine uses, and estimates where there is nothing to read."""
