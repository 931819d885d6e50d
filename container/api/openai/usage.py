"""OpenAI's usage object, in whole answers and in chunks."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET, UnsetType

from container.api.openai.answer_types import CompletionTokensDetails, PromptTokensDetails, Usage
from container.api.openai.sampling import SamplingFields
from container.generation.generation import Generation


def usage_of(
    prompts: list[Generation], answers: list[Generation], details: CompletionTokensDetails | UnsetType = UNSET
) -> Usage:
    """Each prompt of `prompts` counts once, every token of `answers` counts."""
    prompt_tokens = sum(len(generation.prompt.token_ids) for generation in prompts)
    completion_tokens = sum(generation.num_tokens for generation in answers)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(sum(generation.num_cached_tokens for generation in prompts)),
        completion_tokens_details=details,
    )


def chunk_usage(request: SamplingFields, usage: Callable[[], Usage]) -> Usage | UnsetType | None:
    """`usage` of a chunk with choices: the usage so far, null if only the last chunk has it, else absent."""
    if request.continuous_usage:
        return usage()
    return None if request.include_usage else UNSET
