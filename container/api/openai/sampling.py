"""The fields shared by /v1/chat/completions and /v1/completions: how to choose tokens, and their limits."""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Any, Literal

import msgspec

from container.api.bounds import check_bounds, shown, within
from container.api.openai.bad_words import MAX_CHARS, MAX_WORDS, check_bad_words
from container.api.openai.extension_fields import ExtensionFields, check_extensions
from container.api.openai.token_fields import IN_DIGITS, MAX_COUNT, TokenId
from container.api.validation import check, show
from container.errors import InvalidRequest
from container.generation.fan_out import derived_seed
from container.settings import Settings
from handler.seam.protocol import Grammar, SamplingParams, ThinkingLimit

_Word = Annotated[str, shown(minLength=1, maxLength=MAX_CHARS)]
# Rules between fields, which types cannot express; for the OpenAPI document.
STREAM_RULE: dict[str, Any] = {
    "anyOf": [
        {"properties": {"stream_options": {"type": "null"}}},
        {"required": ["stream"], "properties": {"stream": {"const": True}}},
    ]
}


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream contains besides text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class SamplingFields(ExtensionFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of OpenAI, TGI, vLLM and llama.cpp. None counts as absent. `check_sampling` applies the ranges,
    `field_rules` holds what clients send beside these."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int | None, within(0)] = None
    n: Annotated[int | None, within(1)] = None
    stop_token_ids: list[TokenId] | None = None
    bad_words: Annotated[list[_Word], shown(maxItems=MAX_WORDS)] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def num_choices(self) -> int:
        """The number of answers to generate."""
        return 1 if self.n is None else self.n

    @property
    def include_usage(self) -> bool:
        """True if a stream ends with a usage chunk."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """True if every chunk of a stream carries the usage so far."""
        return self.stream_options is not None and bool(self.stream_options.continuous_usage_stats)


def check_sampling(request: SamplingFields, settings: Settings) -> None:
    """Raise InvalidRequest naming field, limit and value."""
    check("n", f"from 1 to {settings.max_choices}", request.n, 1 <= request.num_choices <= settings.max_choices)
    check_bounds(request)
    _check_stop(request, settings.max_stop_sequences)
    check_bad_words(request.bad_words)
    check_extensions(request)
    for key, value in (request.logit_bias or {}).items():
        if re.fullmatch(IN_DIGITS, key) is None or key.endswith("\n"):
            raise InvalidRequest(f"`logit_bias` must have token ids as keys. Given: {show(key)}", param="logit_bias")
        check(f"logit_bias.{key}", "from -100 to 100", value, -100 <= value <= 100)
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("`stream_options` is only allowed when `stream` is true", param="stream_options")


def _check_stop(request: SamplingFields, limit: int) -> None:
    stops = request.stop_strings
    check("stop", f"at most {limit} strings", len(stops), len(stops) <= limit)
    if not all(stops):
        raise InvalidRequest('`stop` must be made of non-empty strings. Given: ""', param="stop")
    check("cache_salt", "a non-empty string", request.cache_salt, request.cache_salt != "")
    for token_id in request.stop_token_ids or ():
        check("stop_token_ids", "token ids", token_id, 0 <= token_id <= MAX_COUNT)


def check_token_ids(request: SamplingFields, vocab_size: int) -> None:
    """Raise InvalidRequest for a token id outside the vocabulary."""
    for field in ("logit_bias", "stop_token_ids", "allowed_token_ids"):
        largest = max(map(int, getattr(request, field) or ()), default=0)
        check(field, f"made of token ids below {vocab_size}", largest, largest < vocab_size)


def sampling_params(
    request: SamplingFields,
    max_tokens: int,
    *,
    num_logprobs: int | None,
    num_prompt_logprobs: int | None = None,
    grammar: Grammar | None = None,
    thinking: ThinkingLimit | None = None,
    bad_words: tuple[tuple[int, ...], ...] = (),
) -> SamplingParams:
    """OpenAI's defaults: temperature 1, top-p 1, everything else off. A request without a seed gets a random one.

    `top_p` 0, OpenAI's minimum, leaves only the most likely token: greedy.
    """
    temperature = 1.0 if request.temperature is None else request.temperature
    return SamplingParams(
        max_tokens=max_tokens,
        seed=secrets.randbits(63) if request.seed is None else request.seed % (1 << 64),
        temperature=0.0 if request.top_p == 0 else temperature,
        top_p=request.top_p or 1.0,
        top_k=max(0, request.top_k or 0),
        min_p=request.min_p or 0.0,
        typical_p=request.typical_p or 1.0,
        repetition_penalty=request.repetition_penalty or 1.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        logit_bias={int(key): value for key, value in (request.logit_bias or {}).items()},
        min_tokens=min(request.min_tokens or 0, max_tokens),
        ignore_eos=bool(request.ignore_eos),
        stop_token_ids=tuple(request.stop_token_ids or ()),
        allowed_token_ids=tuple(dict.fromkeys(request.allowed_token_ids or ())),
        num_logprobs=num_logprobs,
        num_prompt_logprobs=num_prompt_logprobs,
        grammar=grammar,
        thinking=thinking,
        bad_words=bad_words,
    )


def text_options(request: SamplingFields) -> dict[str, Any]:
    """What an answer's text holds beside the model's words: fields of `Prompt`."""
    return {
        "keep_stop": request.keeps_stop,
        "keep_end": request.keeps_stop,
        "special_is_text": request.shows_special,
        "join_special": request.spaces_between_special_tokens is False,
    }


def of_choice(params: SamplingParams, index: int) -> SamplingParams:
    """The parameters of choice `index`, with its own seed; choice 0 keeps the request's."""
    return msgspec.structs.replace(params, seed=derived_seed(params.seed, index))
