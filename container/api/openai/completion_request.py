"""The body of POST /v1/completions as a `Completion`, valid by construction."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from container.api.bounds import shown, within
from container.api.openai import response_format, structured_outputs
from container.api.openai.extension_fields import PROMPT_LOGPROBS_RULE, truncated
from container.api.openai.foreign_fields import read
from container.api.openai.response_format import ResponseFormat
from container.api.openai.sampling import STREAM_RULE, SamplingFields, check_sampling, check_token_ids
from container.api.openai.structured_outputs import Constraint, constraint_of
from container.api.validation import check
from container.errors import InvalidRequest
from container.monitoring.request_record import timed
from container.serving.served_model import ServedModel
from container.settings import Settings
from container.text.offload import encode

_DEFAULT_MAX_TOKENS = 16
_MAX_LOGPROBS = 5
# Tokens of all prompts whose log-probabilities one answer lists, some 100 bytes each; one prompt may always be as long
# as the context.
_MAX_SCORED_TOKENS = 131_072
_MAX_TOKEN_ID = 2**31 - 1
_ALLOWED = {**response_format.ALLOWED, **structured_outputs.ALLOWED}
_IDS = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": _MAX_TOKEN_ID}}
# One text or several, the token ids of one prompt or of several.
_Prompt = Annotated[
    Any,
    shown(
        anyOf=[
            {"type": "string"},
            {"type": "array", "minItems": 1, "items": {"type": "string"}},
            _IDS,
            {"type": "array", "minItems": 1, "items": _IDS},
        ]
    ),
]
# Rules between fields, which types cannot express; for the OpenAPI document.
_NOTHING_RULE = {
    "anyOf": [
        {"properties": {"max_tokens": {"anyOf": [{"type": "null"}, {"minimum": 1}]}}},
        {"required": ["echo"], "properties": {"echo": {"const": True}}},
    ]
}
RULE: dict[str, Any] = {"allOf": [STREAM_RULE, _NOTHING_RULE, PROMPT_LOGPROBS_RULE]}


class CompletionRequest(SamplingFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's fields, and vLLM's `response_format`. None counts as absent."""

    prompt: _Prompt
    echo: bool | None = None
    logprobs: Annotated[int | None, within(0, _MAX_LOGPROBS)] = None
    best_of: Annotated[int | None, within(1)] = None
    response_format: ResponseFormat | None = None

    @property
    def num_prompt_logprobs(self) -> int | None:
        """As many as `echo` and `prompt_logprobs` show for each token of a prompt; None: its tokens are not scored."""
        echoed = self.logprobs if self.echo else None
        counts = [count for count in (echoed, self.prompt_logprobs) if count is not None]
        return max(counts, default=None)


class Completion(msgspec.Struct, frozen=True):
    """A checked request and its prompts, as text or token ids; `num_candidates` are generated for each prompt."""

    request: CompletionRequest
    prompts: list[str | list[int]]
    num_candidates: int
    constraint: Constraint | None

    @property
    def num_chars(self) -> int:
        """Characters of the prompts that came as text."""
        return sum(len(prompt) for prompt in self.prompts if isinstance(prompt, str))

    @property
    def max_tokens(self) -> int:
        """OpenAI's default is 16."""
        return _DEFAULT_MAX_TOKENS if self.request.max_tokens is None else self.request.max_tokens


def parse_completion(body: dict[str, Any], settings: Settings, vocab_size: int) -> Completion:
    """Raises InvalidRequest naming field, limit and value."""
    request = read(body, CompletionRequest, _ALLOWED, takes_unknown=settings.unknown_fields == "ignore")
    check_sampling(request, settings)
    check_token_ids(request, vocab_size)
    if request.max_tokens == 0 and not request.echo:
        raise InvalidRequest("`max_tokens` must be at least 1 without `echo`. Given: 0", param="max_tokens")
    candidates = _candidates(request, settings.max_choices)
    prompts = _prompts(request.prompt)
    limit = settings.max_client_batch_size
    check("prompt", f"at most {limit} prompts", len(prompts), len(prompts) <= limit)
    return Completion(request, prompts, candidates, constraint_of(request, request.response_format))


def tokenized(completion: Completion, served: ServedModel) -> list[list[int]]:
    """The token ids of each prompt, cut as `truncate_prompt_tokens` says. Raises InvalidRequest."""
    adds_special = completion.request.add_special_tokens is not False
    room = served.prompt_room(max(1, completion.max_tokens))
    with timed("tokenise"):
        found = [_token_ids(prompt, served, adds_special) for prompt in completion.prompts]
    prompts = [truncated(token_ids, completion.request, room) for token_ids in found]
    if completion.request.num_prompt_logprobs is not None:
        limit, total = max(_MAX_SCORED_TOKENS, served.card.max_model_len), sum(map(len, prompts))
        check(
            "prompt", f"at most {limit} tokens in all if their log-probabilities are asked for", total, total <= limit
        )
    return prompts


def _token_ids(prompt: str | list[int], served: ServedModel, adds_special: bool) -> list[int]:
    if isinstance(prompt, str):
        return encode(served.tokenizer, prompt, add_special_tokens=adds_special)
    vocab_size, largest = served.card.vocab_size, max(prompt)
    check("prompt", f"made of token ids below {vocab_size}", largest, largest < vocab_size)
    return prompt


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
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_TOKEN_ID
