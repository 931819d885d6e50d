"""In which numbers activations are multiplied by weights of 4 to 8 bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ActivationChoice:
    """The choice for every `BlockProduct` of the process, which has one engine.

    `wants_int8` is set before products are made: they have both kernels then. `is_int8` says which one runs.
    """

    def __init__(self) -> None:
        self.wants_int8 = False
        self._is_exact = False

    @property
    def is_int8(self) -> bool:
        """True if activations are rounded now."""
        return self.wants_int8 and not self._is_exact

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Inside the `with` block, activations are not rounded."""
        before, self._is_exact = self._is_exact, True
        try:
            yield
        finally:
            self._is_exact = before


ACTIVATIONS = ActivationChoice()
