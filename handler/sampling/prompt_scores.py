"""Log-probabilities of a prompt's own tokens, with their ranks."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from handler.sampling.transfer import read_back, upload
from handler.scheduling.scheduler import ScheduledSequence
from handler.seam.protocol import TokenLogprob

_SCORED_ROWS = 256


def score_prompt(rows: Tensor, item: ScheduledSequence) -> None:
    """Append the log-probabilities of the prompt tokens that a chunk's `rows` `[num_tokens, vocab]` predict.

    Works in blocks of `_SCORED_ROWS`: float32 copies of a chunk of 4,096 tokens would take gigabytes. A GPU is waited
    for once in each.
    """
    seq = item.seq
    # A prompt that runs again after preemption is not scored twice.
    first = len(seq.prompt_logprobs) - item.start
    last = min(item.num_tokens, seq.num_prompt_tokens - 1 - item.start)
    for start in range(first, last, _SCORED_ROWS):
        block = rows[start : min(start + _SCORED_ROWS, last)]
        position = item.start + start + 1
        seq.prompt_logprobs += _scores(
            block.float().log_softmax(-1),
            seq.token_ids[position : position + len(block)],
            seq.sampling.num_prompt_logprobs or 0,
        )


def _scores(logprobs: Tensor, token_ids: list[int], num_top: int) -> list[TokenLogprob]:
    """An entry for each row of `logprobs` `[N, vocab]` and its token, with the token's rank."""
    ids = upload({"ids": np.array(token_ids)}, logprobs.device)["ids"]
    own = logprobs.gather(1, ids[:, None])
    tensors = [own[:, 0], (logprobs >= own).sum(-1)]
    if num_top:
        found = logprobs.topk(min(num_top, logprobs.shape[1]))
        tensors += [found.indices, found.values]
    chosen, ranks, *best = read_back(tensors)
    tops: list[tuple[tuple[int, float], ...]] = [()] * len(token_ids)
    if best:
        pairs = zip(*best, strict=True)
        tops = [tuple((int(i), value) for i, value in zip(ids, values, strict=True)) for ids, values in pairs]
    return [TokenLogprob(value, top, int(rank)) for value, top, rank in zip(chosen, tops, ranks, strict=True)]
