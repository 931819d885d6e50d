"""Logits -> one token for each sequence, with its log-probability if requested.

All randomness is keyed by (request seed, token index); see randomness.py. No operation here mixes rows, so a row that
is not finite fails alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from handler.sampling.penalties import apply_penalties, needs_penalties
from handler.sampling.randomness import uniform
from handler.sampling.warping import Candidates, FullVocabulary, candidates
from handler.scheduling.scheduler import ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import ErrorCode, TokenLogprob

# The argmax of a row is found in parts of up to `_PART` logits; parts below `_MIN_PART` do not pay.
_PART, _MIN_PART = 256, 32
_SCORED_ROWS = 256


@dataclass(frozen=True, slots=True)
class Sampled:
    """The outcome for one row: a token, or `error` and `message` if the row failed."""

    token_id: int | None
    logprob: TokenLogprob | None = None
    error: ErrorCode | None = None
    message: str = ""


_NOT_FINITE = Sampled(None, error=ErrorCode.NUMERICS, message="the model's output for this request is not a number")
_NOTHING_ALLOWED = Sampled(
    None, error=ErrorCode.INTERNAL, message="grammar, bias, bad words and penalties together leave no token to choose"
)
_NONE_OF_THE_ALLOWED = Sampled(
    None,
    error=ErrorCode.INVALID,
    message="no token of `allowed_token_ids` may follow: grammar, bad words, bias or `min_tokens` exclude them all",
)


def sample(logits: Tensor, seqs: list[Sequence], eos_token_ids: Collection[int]) -> list[Sampled]:
    """Choose a token for each row of `logits` `[len(seqs), vocab]`, any float dtype."""
    largest, indices = _largest(logits)
    finite, greedy_ids = largest.isfinite().tolist(), indices.tolist()
    rows = _penalised(logits, seqs, finite, eos_token_ids)
    failed = {i: _NOT_FINITE for i, ok in enumerate(finite) if not ok}
    failed |= {i: _nothing_allowed(seqs[i]) for i, row in rows.items() if not row.max().isfinite()}
    drawn = [i for i, seq in enumerate(seqs) if i not in failed and not seq.sampling.greedy]
    choices: dict[int, Candidates | FullVocabulary] = {}
    if drawn:
        given = torch.stack([rows[i] if i in rows else logits[i].float() for i in drawn])
        warped = candidates(given, [seqs[i].sampling for i in drawn])
        choices = dict(zip(drawn, warped, strict=True))
    result: list[Sampled] = []
    for i, seq in enumerate(seqs):
        if i in failed:
            result.append(failed[i])
            continue
        if i in choices:
            token_id = choices[i].draw(uniform(seq.sampling.seed, seq.num_output_tokens))
        else:
            token_id = int(rows[i].argmax()) if i in rows else greedy_ids[i]
        result.append(Sampled(token_id, _logprob(logits[i], rows.get(i), choices.get(i), seq, token_id)))
    return result


def _nothing_allowed(seq: Sequence) -> Sampled:
    return _NONE_OF_THE_ALLOWED if seq.sampling.allowed_token_ids else _NOTHING_ALLOWED


def _largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum of each row of `[N, vocab]`, NaN if the row has one, and its first index."""
    width = math.gcd(logits.shape[1], _PART)
    if logits.device.type != "cpu" or width < _MIN_PART:
        found = logits.max(-1)
        return found.values, found.indices
    # torch vectorises amax but not argmax on CPU, so argmax runs only over the part that holds the maximum.
    parts = logits.unflatten(-1, (-1, width))
    largest, part = parts.amax(-1).max(-1)
    within = parts.gather(1, part[:, None, None].expand(-1, -1, width))[:, 0].max(-1).indices
    return largest, part * width + within


def _penalised(
    logits: Tensor, seqs: list[Sequence], finite: list[bool], eos_token_ids: Collection[int]
) -> dict[int, Tensor]:
    """Float32 copies of the rows that penalties and grammars change; `logits` itself stays unchanged."""
    rows: dict[int, Tensor] = {}
    for i, seq in enumerate(seqs):
        if finite[i] and (needs_penalties(seq) or seq.constraint is not None):
            rows[i] = logits[i].to(torch.float32, copy=True)
            apply_penalties(rows[i], seq, eos_token_ids)
            if seq.constraint is not None:
                allowed = seq.constraint.mask().to(logits.device)
                rows[i].masked_fill_(~allowed, float("-inf"))
    return rows


def score_prompt(rows: Tensor, item: ScheduledSequence) -> None:
    """Append the log-probabilities of the prompt tokens that a chunk's `rows` `[num_tokens, vocab]` predict.

    Works in blocks of `_SCORED_ROWS`: float32 copies of a chunk of 4,096 tokens would take gigabytes.
    """
    seq = item.seq
    # A prompt that runs again after preemption is not scored twice.
    first = len(seq.prompt_logprobs) - item.start
    last = min(item.num_tokens, seq.num_prompt_tokens - 1 - item.start)
    for start in range(first, last, _SCORED_ROWS):
        block = rows[start : min(start + _SCORED_ROWS, last)]
        position = item.start + start + 1
        seq.prompt_logprobs += _reports(
            block.float().log_softmax(-1),
            seq.token_ids[position : position + len(block)],
            seq.sampling.num_prompt_logprobs or 0,
        )


def _reports(logprobs: Tensor, token_ids: list[int], num_top: int) -> list[TokenLogprob]:
    """An entry for each row of `logprobs` `[N, vocab]` and its token, with the token's rank; four host waits in all."""
    own = logprobs.gather(1, torch.tensor(token_ids, device=logprobs.device)[:, None])
    ranks, chosen = (logprobs >= own).sum(-1).tolist(), own[:, 0].tolist()
    tops: list[tuple[tuple[int, float], ...]] = [()] * len(token_ids)
    if num_top:
        found = logprobs.topk(min(num_top, logprobs.shape[1]))
        pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        tops = [tuple(zip(ids, values, strict=True)) for ids, values in pairs]
    return [TokenLogprob(*each) for each in zip(chosen, tops, ranks, strict=True)]


def _logprob(
    logits: Tensor, penalised: Tensor | None, choice: Candidates | FullVocabulary | None, seq: Sequence, token_id: int
) -> TokenLogprob | None:
    """The log-probabilities the request asks for: raw log-softmax, or that of the warped distribution (TGI)."""
    num_top = seq.sampling.num_logprobs
    if num_top is None:
        return None
    if not seq.sampling.warped_logprobs:
        return _report(logits.float().log_softmax(-1), None, token_id, num_top)
    if choice is None:
        return _report((logits.float() if penalised is None else penalised).log_softmax(-1), None, token_id, num_top)
    return _report(choice.probs.log(), choice.token_ids, token_id, num_top)


def _report(logprobs: Tensor, ids: Tensor | None, token_id: int, num_top: int) -> TokenLogprob:
    """The entry for `token_id`; `ids` are the token ids of `logprobs`, None if index equals token id.

    Tokens that cannot come, as under a grammar, are no alternatives: JSON has no minus infinity.
    """
    index = token_id if ids is None else int((ids == token_id).nonzero()[0])
    top: tuple[tuple[int, float], ...] = ()
    if num_top:
        found = logprobs.topk(min(num_top, len(logprobs)))
        names = found.indices if ids is None else ids[found.indices]
        pairs = zip(names.tolist(), found.values.tolist(), strict=True)
        top = tuple((token_id, value) for token_id, value in pairs if math.isfinite(value))
    return TokenLogprob(float(logprobs[index]), top)
