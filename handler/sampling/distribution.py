"""The distribution over the whole vocabulary of all drawn rows: what a nucleus is a share of, and untruncated draws.

CPU sums the vocabulary in blocks, so that no row is sorted or scanned as a whole. A GPU has kernels that do it at
once, and launches cost it more than passes over memory do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

# Tokens per partial sum.
_BLOCK = 256


class Distribution(Protocol):
    """Rows `[m, vocab]` in the plan's order. `scores` rank the tokens; less `totals`, they are log-probabilities."""

    scores: Tensor
    totals: Tensor | None

    def draw(self, count: int, uniforms: Tensor) -> Tensor:
        """Tokens of the first `count` rows at `uniforms`, float64 `[count]` in (0, 1); never one of weight 0."""

    def log_probs(self, place: int) -> Tensor:
        """Log-probabilities `[vocab]` of the row at `place`, one of those that `draw` can draw."""


def distribution(scaled: Tensor, highest: Callable[[], Tensor], num_plain: int, num_open: int) -> Distribution:
    """Of `scaled` float32 `[m, vocab]`, whose maxima `highest` tells, `[m]`. On CPU only the first `num_open` rows are
    summed, and the first `num_plain` of them have no use for their total."""
    if scaled.device.type == "cpu":
        return BlockedDistribution(scaled, highest(), num_plain, num_open)
    return ScannedDistribution(scaled)


class BlockedDistribution:
    """Unnormalised probabilities relative to each row's maximum, and their sums by blocks."""

    def __init__(self, scaled: Tensor, highest: Tensor, num_plain: int, num_open: int) -> None:
        self.scores = scaled
        self.totals: Tensor | None = None
        self._vocab_size = scaled.shape[1]
        if not num_open:
            return
        if num_open < len(scaled):
            scaled, highest = scaled[:num_open], highest[:num_open]
        weights = (scaled - highest[:, None]).exp_()
        padding = -self._vocab_size % _BLOCK
        self._weights = (F.pad(weights, (0, padding)) if padding else weights).view(num_open, -1, _BLOCK)
        self._block_sums = self._weights.sum(-1).double()
        if num_plain < num_open:
            self.totals = self._block_sums.sum(-1).log() + highest.double()

    def draw(self, count: int, uniforms: Tensor) -> Tensor:
        # Row by row in numpy, whose calls cost less than torch's: a row needs a few hundred numbers.
        sums, weights = self._block_sums.numpy(), self._weights.numpy()
        pairs = enumerate(uniforms.tolist())
        return torch.tensor([_drawn(sums[i], weights[i], uniform) for i, uniform in pairs])

    def log_probs(self, place: int) -> Tensor:
        weights = self._weights[place].flatten()[: self._vocab_size].double()
        return (weights / weights.sum()).log()


def _drawn(block_sums: NDArray[np.float64], weights: NDArray[np.float32], uniform: float) -> int:
    """The token at `uniform` of the cumulative weights: first its block, then its place there."""
    cumulative = block_sums.cumsum()
    target = uniform * cumulative[-1]
    block = _first_beyond(cumulative, target)
    rest = target - (cumulative[block - 1] if block else 0.0)
    return block * _BLOCK + _first_beyond(weights[block].cumsum(dtype=np.float64), rest)


def _first_beyond(cumulative: NDArray[np.float64], target: float) -> int:
    """The first place whose cumulative weight exceeds `target`; if none does, the last one of nonzero weight."""
    place = int(cumulative.searchsorted(target, side="right"))
    return place if place < len(cumulative) else int(cumulative[:-1].searchsorted(cumulative[-1]))


class ScannedDistribution:
    """Log-probabilities, and one scan of each row."""

    def __init__(self, scaled: Tensor) -> None:
        self.totals: Tensor | None = None
        self.scores = scaled.log_softmax(-1)

    def draw(self, count: int, uniforms: Tensor) -> Tensor:
        # Uniforms are so far below 1 that some cumulative weight exceeds the target.
        cumulative = self.scores[:count].exp().cumsum(-1, dtype=torch.float64)
        return (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(-1)

    def log_probs(self, place: int) -> Tensor:
        return self.scores[place]
