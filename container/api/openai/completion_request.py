"""The body of POST /v1/completions, made into a `Completion` that is valid by construction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from container.api.openai.sampling import SamplingFields, check_sampling
from container.api.validation import check, convert
from container.errors import InvalidRequest
from container.settings import Settings
from container.text.tokenizer import Tokenizer

_DEFAULT_MAX_TOKENS = 16
_MAX_LOGPROBS = 5

PromptField = str | list[str] | list[int] | list[list[int]]


class CompletionRequest(SamplingFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's fields. None is absent."""

    prompt: Any
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None


class Completion(msgspec.Struct, frozen=True):
    """A checked request and its prompts as token ids; `num_candidates` are generated for each prompt."""

    request: CompletionRequest
    prompts: list[list[int]]
    num_candidates: int

    @property
    def max_tokens(self) -> int:
        """OpenAI's default is 16."""
        return _DEFAULT_MAX_TOKENS if self.request.max_tokens is None else self.request.max_tokens


def parse_completion(
    body: dict[str, Any], settings: Settings, tokenizer: Tokenizer, admit: Callable[[int], object]
) -> Completion:
    """`admit` is asked for a place for each sequence before any prompt is tokenised.

    Raises InvalidRequest naming field, limit and value, and what `admit` raises.
    """
    request = convert(body, CompletionRequest)
    check_sampling(request, settings)
    if request.suffix is not None:
        raise InvalidRequest(
            "`suffix` is not supported and can be achieved by preprocessing the prompt", param="suffix"
        )
    low = 0 if request.echo else 1
    check("max_tokens", f"at least {low}", request.max_tokens, request.max_tokens is None or request.max_tokens >= low)
    check("logprobs", f"from 0 to {_MAX_LOGPROBS}", request.logprobs, 0 <= (request.logprobs or 0) <= _MAX_LOGPROBS)
    candidates = _candidates(request, settings.max_choices)
    parts = _prompts(request.prompt)
    limit = settings.max_client_batch_size
    check("prompt", f"at most {limit} prompts", len(parts), len(parts) <= limit)
    admit(len(parts) * candidates)
    ids = [tokenizer.encode(part, add_special_tokens=True) if isinstance(part, str) else part for part in parts]
    return Completion(request, ids, candidates)


def _candidates(request: CompletionRequest, limit: int) -> int:
    best_of = request.best_of
    if best_of is None:
        return request.num_choices
    check("best_of", f"from n ({request.num_choices}) to {limit}", best_of, request.num_choices <= best_of <= limit)
    if request.stream and best_of > request.num_choices:
        raise InvalidRequest("`best_of` above `n` is not supported when streaming", param="best_of")
    return best_of


def _prompts(prompt: Any) -> list[str | list[int]]:
    """One entry for each prompt: text, or token ids."""
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        if all(_is_token_id(item) for item in prompt):
            return [prompt]
        if all(isinstance(item, str) for item in prompt):
            return list(prompt)
        if all(isinstance(item, list) and item and all(_is_token_id(i) for i in item) for item in prompt):
            return list(prompt)
    allowed = "a string, an array of strings, of token ids, or of arrays of token ids; not empty"
    check("prompt", allowed, prompt, False)
    return []


def _is_token_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
