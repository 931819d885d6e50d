"""Layers over quantised weights on CUDA, by products that torch has."""
