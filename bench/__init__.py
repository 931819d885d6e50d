"""Benchmarks of this server on the local machine. Not part of the container."""
