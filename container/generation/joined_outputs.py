"""The outputs of several steps for one request, as one: for a reader that is behind the engine."""

from __future__ import annotations

from collections.abc import Sequence

from handler.seam.protocol import StepOutput

# Tokens of one joined output, so that a reader that is far behind leaves the event loop to others in between.
MAX_JOINED_TOKENS = 64


def can_join(first: StepOutput, following: StepOutput, num_tokens: int) -> bool:
    """Whether `following` may join the `num_tokens` tokens that begin with those of `first`.

    A request's first output stays alone: its time is that of the first token.
    """
    return first.start > 0 and num_tokens + len(following.token_ids) <= MAX_JOINED_TOKENS


def joined(outputs: Sequence[StepOutput]) -> StepOutput:
    """One output with the tokens of all, in order; what counts up to a moment, and the reason, is the last one's."""
    if len(outputs) == 1:
        return outputs[0]
    first, last = outputs[0], outputs[-1]
    scored = [found for output in outputs for found in output.logprobs or ()]
    return StepOutput(
        first.request_id,
        [token_id for output in outputs for token_id in output.token_ids],
        scored if last.logprobs is not None or scored else None,
        first.prompt_logprobs,
        last.finish_reason,
        first.num_cached_tokens,
        first.queue_time_s,
        last.inference_time_s,
        first.start,
    )
