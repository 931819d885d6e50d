"""What became of quantised weights at load, in one line of the log."""

from __future__ import annotations

import logging
from collections import Counter

logger = logging.getLogger(__name__)

_NAMED = 3


class LayerReport:
    """Counts the layers that multiply by quantised weights, and those weights that were dequantised."""

    def __init__(self, stored: str | None) -> None:
        """`stored` is the form of the checkpoint, None if the weights are quantised at load."""
        self._stored = stored
        self._kinds: Counter[int] = Counter()
        self._experts: Counter[int] = Counter()
        self._dense: list[str] = []
        self._bytes_stored = self._bytes_dense = 0

    def placed(self, bits: int) -> None:
        """A layer multiplies by codes of `bits`."""
        self._kinds[bits] += 1

    def placed_experts(self, bits: int) -> None:
        """A matrix of each expert of a layer."""
        self._experts[bits] += 1

    def dequantised(self, name: str, num_bytes: int, dense_bytes: int) -> None:
        """The weight `name` takes `dense_bytes` instead of the `num_bytes` that it has in the file."""
        self._dense.append(name.removesuffix(".weight"))
        self._bytes_stored += num_bytes
        self._bytes_dense += dense_bytes

    def log(self) -> None:
        """Say it, if there was anything."""
        verb = "multiply as stored" if self._stored else "quantised"
        for what, counts in (("linear layers", self._kinds), ("matrices of all experts", self._experts)):
            if counts:
                kinds = ", ".join(f"{count} of {bits} bits" for bits, count in sorted(counts.items()))
                logger.info("%s %s: %s", what, verb, kinds)
        if self._dense:
            names = ", ".join(self._dense[:_NAMED]) + (", ..." if len(self._dense) > _NAMED else "")
            logger.info(
                "%d weights stored as %s are dequantised at the start, as no kernel here multiplies them: %d MiB in "
                "memory instead of %d (%s)",
                *(len(self._dense), self._stored, self._bytes_dense >> 20, self._bytes_stored >> 20, names),
            )
