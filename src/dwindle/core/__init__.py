"""Tensors in, tensors out: encodings and the arithmetic of compression; pure."""
