"""Wheels for a machine without a network: chosen by the pins, cut, and unpacked there beside its own packages."""
