"""Temperature and truncation (top-k, top-p, min-p, typical-p), and the draw from what is left.

The order is TGI's and transformers': temperature, top-k, top-p, min-p, typical-p. A row's result depends on its own
logits and parameters alone: rows share kernels, never thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from handler.protocol import SamplingParams

# Candidates looked at before the whole vocabulary is sorted. A nucleus rarely holds more.
_NUM_CANDIDATES = 256
_MAX_CANDIDATES = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The tokens one row may still become: `token_ids` `[k]` and their float64 `probs` `[k]`, which sum to 1."""

    token_ids: Tensor
    probs: Tensor

    def draw(self, uniform: float) -> int:
        """The token at `uniform` in (0, 1) of the cumulative distribution."""
        cumulative = self.probs.cumsum(0)
        index = int(torch.searchsorted(cumulative, uniform * float(cumulative[-1])))
        return int(self.token_ids[min(index, len(cumulative) - 1)])


def candidates(rows: Tensor, params: list[SamplingParams]) -> list[Candidates]:
    """Warp float32 `rows` `[n, vocab]`, none of them greedy, and list what remains of each."""
    temperatures = torch.tensor([p.temperature for p in params], device=rows.device)
    scaled = rows / temperatures[:, None]
    width = min(rows.shape[1], max(_NUM_CANDIDATES, *(_bounded_top_k(p) for p in params)))
    totals = scaled.double().logsumexp(-1) if any(_nucleus(p) for p in params) else None
    top = scaled.topk(width) if any(_truncates(p) for p in params) else None
    result: list[Candidates] = []
    for i, p in enumerate(params):
        found = None
        if top is not None and _truncates(p) and p.typical_p >= 1.0:
            total = None if totals is None else totals[i]
            whole = width == rows.shape[1]
            found = _from_head(top.values[i].double(), top.indices[i], total, p, whole)
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
    """Truncate among the best scores alone, descending; None if the answer may reach beyond them.

    `total` is the log-sum-exp of the whole row, the normaliser where top-k is off. `whole` says that the scores
    are the entire row.
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
    """Which of the descending `probs` top-p and min-p leave; the first always stays."""
    keep = torch.ones_like(probs, dtype=torch.bool)
    if params.top_p < 1.0:
        keep &= probs.cumsum(0) - probs < params.top_p
    if params.min_p > 0.0:
        keep &= probs >= params.min_p * probs[0]
    keep[0] = True
    return keep


def _from_vocabulary(scores: Tensor, params: SamplingParams) -> Candidates:
    """The exact answer from the whole row; sorts only if something truncates."""
    if not _truncates(params):
        return Candidates(torch.arange(len(scores), device=scores.device), scores.softmax(0))
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
