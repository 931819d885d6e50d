"""Truncation: top-k, top-p, min-p and typical-p, of all rows of a group at once.

The order is TGI's and transformers': temperature, top-k, top-p, min-p, typical-p. A row's result depends only on its
own logits and parameters: rows share kernels, never thresholds. On CPU every sum runs over exactly the tokens that are
left, because torch adds in another order if zeros stand behind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from handler.sampling.plan import Group, Kind

_NEVER = float("-inf")


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The tokens left of each row of a group: `token_ids` int64 `[m, k]` and float64 `probs` `[m, k]`.

    `probs` are 0 for tokens that are dropped; they sum to 1 on CPU, elsewhere they are in proportion. `counts`, known
    on CPU only, are how many are left of each row; they stand first. `beyond`, bool `[num_nucleus]`, is true where
    lower tokens than these may belong to the nucleus.
    """

    token_ids: Tensor
    probs: Tensor
    counts: list[int] | None
    beyond: Tensor | None = None

    def draw(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids `[m]` at `uniforms`, float64 `[m]` in (0, 1), of the cumulative distributions; and their places
        `[m, 1]` in `token_ids`."""
        cumulative = self.probs.cumsum(-1)
        # How many lie below is where the first one not below stands.
        place = (cumulative < uniforms[:, None] * cumulative[:, -1:]).sum(-1, keepdim=True)
        return self.token_ids.gather(1, place)[:, 0], place


def truncate(scores: Tensor, totals: Tensor | None, group: Group, sent: Mapping[str, Tensor]) -> Choice:
    """What is left of a group's rows. `scores` float32 `[m, vocab]`, in the plan's order, are log-probabilities once
    `totals`, float64 `[num_nucleus]`, are subtracted; None if they are so already."""
    if group.kind is Kind.HEAD:
        return _from_head(scores, totals, group, sent)
    return _from_vocabulary(scores, group, sent)


def _from_head(rows: Tensor, totals: Tensor | None, group: Group, sent: Mapping[str, Tensor]) -> Choice:
    best = rows.topk(group.width)
    scores, ids = best.values.double(), best.indices
    on_cpu = rows.device.type == "cpu"
    if on_cpu and not group.num_nucleus:
        scores, ids = scores[:, : max(group.most)], ids[:, : max(group.most)]
    nucleus, limited = scores[: group.num_nucleus], scores[group.num_nucleus :]
    parts = [(nucleus if totals is None else nucleus - totals[:, None]).exp()] if group.num_nucleus else []
    if len(limited):
        if not on_cpu or min(group.most) < scores.shape[1]:
            top_k = sent["top_k"][group.rows][group.num_nucleus :, None]
            limited = limited.masked_fill(sent["places"][: scores.shape[1]] >= top_k, _NEVER)
        parts.append(limited.softmax(-1))
    probs = parts[0] if len(parts) == 1 else torch.cat(parts)
    keep = _keep(probs, group, sent)
    counts = _counts(keep, group) if on_cpu else None
    beyond = None
    if keep is not None:
        if group.num_nucleus and group.width < rows.shape[1]:
            beyond = keep[: group.num_nucleus, -1]
        probs = probs * keep
    return Choice(ids, probs if counts is None else probs / _totals(probs, counts), counts, beyond)


def _counts(keep: Tensor | None, group: Group) -> list[int]:
    """How many tokens are left of each row. What is kept is a beginning, since probabilities descend."""
    if keep is None:
        return group.most
    # A row that is not a number keeps none; it fails later.
    return [max(1, min(pair)) for pair in zip(keep.sum(-1).tolist(), group.most, strict=True)]


def _totals(probs: Tensor, counts: list[int]) -> Tensor:
    """The sum of each row's first `counts` tokens, `[m, 1]`."""
    sums = [row[:count].sum() for row, count in zip(probs.unbind(), counts, strict=True)]
    return torch.stack(sums)[:, None]


def _keep(probs: Tensor, group: Group, sent: Mapping[str, Tensor]) -> Tensor | None:
    """Mask of the descending `probs` that top-p and min-p keep, None if that is all; the first is always kept."""
    keep = None
    if group.by_top_p:
        keep = probs.cumsum(-1) - probs < sent["top_p"][group.rows][:, None]
    if group.by_min_p:
        likely = probs >= sent["min_p"][group.rows][:, None] * probs[:, :1]
        keep = likely if keep is None else keep & likely
    return keep


def _from_vocabulary(rows: Tensor, group: Group, sent: Mapping[str, Tensor]) -> Choice:
    """Truncate exactly, by sorting whole rows."""
    scores, ids = rows.double().sort(dim=-1, descending=True, stable=True)
    if group.by_top_k:
        scores, ids = _first(scores, ids, sent["places"] < sent["top_k"][group.rows][:, None])
    if group.by_top_p or group.by_min_p:
        keep = _keep(scores.softmax(-1), group, sent)
        assert keep is not None
        scores, ids = _first(scores, ids, keep)
    if group.kind is Kind.TYPICAL:
        scores, ids = _typical(scores, ids, sent["typical_p"][group.rows][:, None])
    counts = [scores.shape[1]] if rows.device.type == "cpu" else None
    return Choice(ids, scores.softmax(-1), counts)


def _first(scores: Tensor, ids: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """What `keep`, true for a beginning of each row, leaves: on CPU, where a group is one row, that beginning."""
    if scores.device.type == "cpu":
        count = max(1, int(keep[:, : scores.shape[1]].sum()))
        return scores[:, :count], ids[:, :count]
    return torch.where(keep, scores, _NEVER), ids


def _typical(scores: Tensor, ids: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Locally typical sampling (Meister 2022): the tokens whose surprise is closest to the entropy, up to `mass`."""
    logprobs = scores.log_softmax(-1)
    probs = logprobs.exp()
    negative_entropy = (probs * logprobs).nansum(-1, keepdim=True)
    order = (negative_entropy - logprobs).abs().sort(dim=-1, stable=True).indices
    ordered = probs.gather(1, order)
    return _first(scores.gather(1, order), ids.gather(1, order), ordered.cumsum(-1) - ordered < mass)
