"""Tiny checkpoints for the tests, each written by the library whose form it has."""
