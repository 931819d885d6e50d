"""Measurements of this server on the machine at hand. Not part of the container."""
