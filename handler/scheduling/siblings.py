"""Prompts that are being computed this moment and will be in the prefix cache the next. Pure Python.

The choices of one request (`n`, `best_of`) come together and have one prompt; without this they would all be admitted
in the same step, before the first has put anything into the cache, and each would compute it.
"""

from __future__ import annotations

from collections.abc import Iterable

from handler.scheduling.sequence import Sequence


def worth_waiting(seq: Sequence, running: Iterable[Sequence], page_size: int) -> bool:
    """True if a running sequence is at more than half of the tokens that `seq` would have to compute.

    `page_size` is what prefixes are shared in, in tokens; 0 if they are not. A smaller part, a common system message
    say, is computed again: it costs less than a step's wait.
    """
    if not page_size or not seq.request.reuse_prefix or seq.scores_prompt:
        return False
    for other in running:
        if other.num_uncomputed <= 1 or not _may_share(seq, other):
            continue
        known = other.num_computed - other.num_computed % page_size
        coming = _common_pages(seq.token_ids[:-1], other.token_ids, page_size) - known
        if 2 * coming > len(seq.token_ids) - known:
            return True
    return False


def _may_share(seq: Sequence, other: Sequence) -> bool:
    return other.request.reuse_prefix and other.request.cache_salt == seq.request.cache_salt


def _common_pages(one: list[int], other: list[int], page_size: int) -> int:
    """Length of the beginning that both have, in whole pages."""
    length = 0
    for end in range(page_size, min(len(one), len(other)) + 1, page_size):
        if one[length:end] != other[length:end]:
            break
        length = end
    return length
