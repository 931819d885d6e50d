"""Imports of users' code leave nothing behind in this process."""

from tests.support.hooks import modules_as_they_were

__all__ = ["modules_as_they_were"]
