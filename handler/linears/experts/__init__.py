"""Mixtures of experts over quantised weights, in the place of transformers' three-dimensional parameters."""
