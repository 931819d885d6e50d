"""Temperature and truncation (top-k, top-p, min-p, typical-p), and the draw from the remaining tokens.

The order is TGI's and transformers': temperature, top-k, top-p, min-p, typical-p. A row's result depends only on its
own logits and parameters: rows share kernels, never thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from handler.seam.protocol import SamplingParams

# Candidates tried before the whole vocabulary is sorted. A nucleus rarely holds more.
_NUM_CANDIDATES = 256
_MAX_CANDIDATES = 1024
# Second try, for a row whose nucleus is larger.
_MANY_CANDIDATES = 4096
# Tokens per partial sum where nothing truncates.
_BLOCK = 256


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The tokens left after truncation: `token_ids` `[k]` and their float64 `probs` `[k]`, which sum to 1."""

    token_ids: Tensor
    probs: Tensor

    def draw(self, uniform: float) -> int:
        """The token at `uniform` in (0, 1) of the cumulative distribution."""
        cumulative = self.probs.cumsum(0)
        index = int(torch.searchsorted(cumulative, uniform * float(cumulative[-1])))
        return int(self.token_ids[min(index, len(cumulative) - 1)])


class FullVocabulary:
    """All tokens, where nothing truncates. Draws by blocks, so that no row is sorted or summed as a whole."""

    def __init__(self, weights: Tensor, block_sums: Tensor, vocab_size: int) -> None:
        """`weights` float32 `[blocks, _BLOCK]`, unnormalised probabilities; `block_sums` float64 `[blocks]`."""
        self._weights = weights
        self._block_sums = block_sums
        self._vocab_size = vocab_size

    @property
    def token_ids(self) -> Tensor:
        """All token ids, int64 `[vocab]`."""
        return torch.arange(self._vocab_size, device=self._weights.device)

    @property
    def probs(self) -> Tensor:
        """Probabilities, float64 `[vocab]`, which sum to 1."""
        weights = self._weights.flatten()[: self._vocab_size].double()
        return weights / weights.sum()

    def draw(self, uniform: float) -> int:
        """The token at `uniform` in (0, 1) of the cumulative distribution; never one of weight 0."""
        cumulative = self._block_sums.cumsum(0)
        target = uniform * float(cumulative[-1])
        block = _first_beyond(cumulative, target)
        rest = target - (float(cumulative[block - 1]) if block else 0.0)
        return block * _BLOCK + _first_beyond(self._weights[block].double().cumsum(0), rest)


def _first_beyond(cumulative: Tensor, target: float) -> int:
    """The first index whose cumulative weight exceeds `target`; if none does, the last one of nonzero weight."""
    index = int(torch.searchsorted(cumulative, max(target, 0.0), right=True))
    if index < len(cumulative):
        return index
    return int(torch.searchsorted(cumulative, float(cumulative[-1])))


class _Masses:
    """Unnormalised probabilities of all rows, relative to each row's maximum, and their sums by blocks."""

    def __init__(self, scaled: Tensor) -> None:
        self._vocab_size = scaled.shape[1]
        self._highest = scaled.amax(-1, keepdim=True)
        weights = (scaled - self._highest).exp_()
        padded = F.pad(weights, (0, -self._vocab_size % _BLOCK))
        self._weights = padded.view(len(scaled), -1, _BLOCK)
        self._block_sums = self._weights.sum(-1).double()

    def log_totals(self) -> Tensor:
        """Log-sum-exp of each row, float64 `[n]`."""
        return self._block_sums.sum(-1).log() + self._highest[:, 0].double()

    def full(self, i: int) -> FullVocabulary:
        """Row `i`, untruncated."""
        return FullVocabulary(self._weights[i], self._block_sums[i], self._vocab_size)


def candidates(rows: Tensor, params: list[SamplingParams]) -> list[Candidates | FullVocabulary]:
    """Warp float32 `rows` `[n, vocab]`, none of them greedy; returns the remaining tokens of each."""
    temperatures = torch.tensor([p.temperature for p in params], device=rows.device)
    scaled = rows / temperatures[:, None]
    width = min(rows.shape[1], max(_NUM_CANDIDATES, *(_bounded_top_k(p) for p in params)))
    masses = _Masses(scaled) if any(not _truncates(p) or _nucleus(p) for p in params) else None
    totals = masses.log_totals() if masses is not None and any(_nucleus(p) for p in params) else None
    top = scaled.topk(width) if any(_truncates(p) for p in params) else None
    result: list[Candidates | FullVocabulary] = []
    for i, p in enumerate(params):
        found: Candidates | FullVocabulary | None = None
        if masses is not None and not _truncates(p):
            found = masses.full(i)
        elif top is not None and p.typical_p >= 1.0:
            total = None if totals is None else totals[i]
            found = _from_head(top.values[i].double(), top.indices[i], total, p, width == rows.shape[1])
            if found is None and rows.shape[1] > _MANY_CANDIDATES:
                more = scaled[i].topk(_MANY_CANDIDATES)
                found = _from_head(more.values.double(), more.indices, total, p, False)
        result.append(found or _from_vocabulary(scaled[i].double(), p))
    return result


def _bounded_top_k(params: SamplingParams) -> int:
    return params.top_k if 0 < params.top_k <= _MAX_CANDIDATES else 0


def _truncates(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0 or params.typical_p < 1.0


def _nucleus(params: SamplingParams) -> bool:
    return not params.top_k and _truncates(params)


def _from_head(
    scores: Tensor, ids: Tensor, total: Tensor | None, params: SamplingParams, whole: bool
) -> Candidates | None:
    """Truncate among the highest `scores`, given in descending order; None if lower ones may be needed.

    `total` is the log-sum-exp of the row, the normaliser if top-k is off. `whole` is True if the scores are the entire
    row.
    """
    if params.top_k:
        if params.top_k > len(scores):
            return None
        scores, ids = scores[: params.top_k], ids[: params.top_k]
        probs = scores.softmax(0)
    else:
        probs = (scores - (scores.logsumexp(0) if total is None else total)).exp()
    keep = _keep(probs, params)
    if not params.top_k and not whole and bool(keep[-1]):
        return None
    kept = probs[keep]
    return Candidates(ids[keep], kept / kept.sum())


def _keep(probs: Tensor, params: SamplingParams) -> Tensor:
    """Mask of the descending `probs` that top-p and min-p keep; the first is always kept."""
    keep = torch.ones_like(probs, dtype=torch.bool)
    if params.top_p < 1.0:
        keep &= probs.cumsum(0) - probs < params.top_p
    if params.min_p > 0.0:
        keep &= probs >= params.min_p * probs[0]
    keep[0] = True
    return keep


def _from_vocabulary(scores: Tensor, params: SamplingParams) -> Candidates:
    """Truncate exactly, by sorting the whole row."""
    scores, ids = scores.sort(descending=True, stable=True)
    if params.top_k:
        scores, ids = scores[: params.top_k], ids[: params.top_k]
    probs = scores.softmax(0)
    keep = _keep(probs, params)
    scores, ids = scores[keep], ids[keep]
    if params.typical_p < 1.0:
        scores, ids = _typical(scores, ids, params.typical_p)
    return Candidates(ids, scores.softmax(0))


def _typical(scores: Tensor, ids: Tensor, mass: float) -> tuple[Tensor, Tensor]:
    """Locally typical sampling (Meister 2022): the tokens whose surprise is closest to the entropy, up to `mass`."""
    logprobs = scores.log_softmax(0)
    probs = logprobs.exp()
    entropy = -(probs * logprobs).nansum()
    order = (-logprobs - entropy).abs().sort(stable=True).indices
    ahead = probs[order].cumsum(0) - probs[order]
    kept = order[ahead < mass]
    return scores[kept], ids[kept]
