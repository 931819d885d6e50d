"""Ends a thought that has used up its budget: the tokens that close it are forced, one after the other. Pure Python."""

from __future__ import annotations

from handler.scheduling.sequence import Sequence

# An answer begins with its thought, after white space at most.
_MAX_LEAD = 8


def forced_token(seq: Sequence) -> int | None:
    """The token that must come next, or None. It depends on the tokens so far alone, so preemption changes nothing."""
    limit = seq.sampling.thinking
    if limit is None:
        return None
    start = _start(seq, limit.opened_by)
    if start is None:
        return None
    end = start + limit.num_tokens
    index = len(seq.token_ids) - end
    if not 0 <= index < len(limit.ending) or not set(limit.closed_by).isdisjoint(seq.token_ids[start:end]):
        return None
    return limit.ending[index]


def _start(seq: Sequence, opened_by: tuple[int, ...]) -> int | None:
    """The position of the thought's first token; None if the answer does not begin with a thought."""
    begin = seq.num_prompt_tokens
    if not opened_by:
        return begin
    lead = seq.token_ids[begin : begin + _MAX_LEAD]
    return next((begin + i + 1 for i, token_id in enumerate(lead) if token_id in opened_by), None)
