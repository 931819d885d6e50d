"""In which numbers activations are multiplied by weights of 4 to 8 bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ActivationChoice:
    """The choice in force for every `BlockProduct` of the process, which has one engine.

    `is_int8` is set before products are made. They then have both kernels, and the trial at start uses the exact one.
    """

    def __init__(self) -> None:
        self.is_int8 = False

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Inside the `with` block, activations are not rounded."""
        before, self.is_int8 = self.is_int8, False
        try:
            yield
        finally:
            self.is_int8 = before


ACTIVATIONS = ActivationChoice()
