"""Prompts that are being computed now and will soon be in the prefix cache. Pure Python.

The choices of one request (`n`, `best_of`) arrive together with the same prompt. Without this check all of them would
start in one step, before the first has filled the cache, and each would compute the prompt.
"""

from __future__ import annotations

from collections.abc import Iterable

from handler.scheduling.sequence import Sequence


def worth_waiting(seq: Sequence, running: Iterable[Sequence], page_size: int) -> bool:
    """True if a running sequence is computing more than half of the tokens that `seq` would have to compute.

    `page_size` is the unit in which prefixes are shared, in tokens; 0 if they are not. A smaller common part, such as
    a system message, is computed again: that costs less than waiting a step.
    """
    if not page_size or not seq.request.reuse_prefix or seq.scores_prompt:
        return False
    for other in running:
        if other.num_uncomputed <= 1 or not _may_share(seq, other):
            continue
        known = other.num_computed - other.num_computed % page_size
        shared = _common_tokens(seq.token_ids[:-1], other.token_ids, page_size) - known
        if 2 * shared > len(seq.token_ids) - known:
            return True
    return False


def _may_share(seq: Sequence, other: Sequence) -> bool:
    return other.request.reuse_prefix and other.prefix_salt == seq.prefix_salt


def _common_tokens(one: list[int], other: list[int], page_size: int) -> int:
    """Tokens of the common prefix, in whole pages."""
    length = 0
    for end in range(page_size, min(len(one), len(other)) + 1, page_size):
        if one[length:end] != other[length:end]:
            break
        length = end
    return length
