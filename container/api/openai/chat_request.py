"""The body of POST /v1/chat/completions, made into a `ChatRequest` that is valid by construction."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from container.api.validation import check, convert, show
from container.errors import InvalidRequest
from handler.protocol import SamplingParams

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_MAX_SEED = 2**63 - 1
_MAX_TOP_LOGPROBS = 20


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream carries besides text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's fields, then those TGI and vLLM added. None is absent."""

    messages: list[dict[str, Any]]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    store: bool | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def limit(self) -> int | None:
        """The number of tokens to generate at most, by either of its names."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


def parse_chat_request(body: dict[str, Any], max_stop_sequences: int) -> ChatRequest:
    """Raises InvalidRequest naming field, limit and value."""
    request = convert(body, ChatRequest)
    _check_messages(request.messages)
    _check_sampling(request)
    stops = request.stop_strings
    check("stop", f"at most {max_stop_sequences} strings", len(stops), len(stops) <= max_stop_sequences)
    check("stop", "made of non-empty strings", list(stops), all(stops))
    if request.n not in {None, 1}:
        raise InvalidRequest(f"`n` must be 1. Given: {show(request.n)}", param="n")
    return request


def _check_messages(messages: list[dict[str, Any]]) -> None:
    check("messages", "a non-empty array", messages, bool(messages))
    for i, message in enumerate(messages):
        role = message.get("role")
        check(f"messages[{i}].role", f"one of {', '.join(ROLES)}", role, role in ROLES)
        content = message.get("content")
        if isinstance(content, list):
            _check_parts(content, f"messages[{i}].content")
        elif content is not None or role not in {"assistant"}:
            check(
                f"messages[{i}].content",
                "a string or an array of text parts",
                content,
                isinstance(content, str),
            )


def _check_parts(parts: list[Any], field: str) -> None:
    for j, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        check(f"{field}[{j}].type", '"text"; this model takes no other parts', kind, kind == "text")
        check(f"{field}[{j}].text", "a string", part.get("text"), isinstance(part.get("text"), str))


def _check_sampling(request: ChatRequest) -> None:
    _check_range("temperature", request.temperature, 0.0, 100.0)
    _check_range("min_p", request.min_p, 0.0, 1.0)
    _check_range("frequency_penalty", request.frequency_penalty, -2.0, 2.0)
    _check_range("presence_penalty", request.presence_penalty, -2.0, 2.0)
    _check_range("top_logprobs", request.top_logprobs, 0, _MAX_TOP_LOGPROBS)
    top_p = request.top_p
    check("top_p", "> 0.0 and <= 1.0", top_p, top_p is None or 0.0 < top_p <= 1.0)
    penalty = request.repetition_penalty
    check("repetition_penalty", "> 0.0 and <= 100.0", penalty, penalty is None or 0.0 < penalty <= 100.0)
    for field in ("max_tokens", "max_completion_tokens"):
        value = getattr(request, field)
        check(field, "at least 1", value, value is None or value >= 1)
    check("top_k", "at least -1", request.top_k, request.top_k is None or request.top_k >= -1)
    check("min_tokens", "at least 0", request.min_tokens, request.min_tokens is None or request.min_tokens >= 0)
    check("seed", "from -2^63 to 2^63 - 1", request.seed, abs(request.seed or 0) <= _MAX_SEED)
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequest("`top_logprobs` needs `logprobs`: true", param="top_logprobs")
    if request.continue_final_message and request.add_generation_prompt:
        raise InvalidRequest(
            "`continue_final_message` and `add_generation_prompt` exclude each other",
            param="continue_final_message",
        )


def _check_range(field: str, value: float | None, low: float, high: float) -> None:
    check(field, f"from {low} to {high}", value, value is None or low <= value <= high)


def sampling_params(request: ChatRequest, max_tokens: int) -> SamplingParams:
    """OpenAI's defaults: temperature 1, top-p 1, everything else off."""
    seed = secrets.randbits(63) if request.seed is None else request.seed % (1 << 64)
    return SamplingParams(
        max_tokens=max_tokens,
        seed=seed,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=max(0, request.top_k or 0),
        min_p=request.min_p or 0.0,
        repetition_penalty=request.repetition_penalty or 1.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        logit_bias=_logit_bias(request.logit_bias or {}),
        min_tokens=min(request.min_tokens or 0, max_tokens),
        ignore_eos=bool(request.ignore_eos),
        num_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )


def _logit_bias(bias: dict[str, float]) -> dict[int, float]:
    result: dict[int, float] = {}
    for key, value in bias.items():
        check("logit_bias", "an object whose keys are token ids", key, key.isdecimal() and len(key) <= 10)
        check(f"logit_bias.{key}", "from -100 to 100", value, -100 <= value <= 100)
        result[int(key)] = value
    return result
