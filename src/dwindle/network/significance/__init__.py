"""This package says how much each layer of a network matters, by one interface whatever the criterion."""
