"""The fields that /v1/chat/completions and /v1/completions share: how to choose tokens, and their limits."""

from __future__ import annotations

import secrets

import msgspec

from container.api.validation import check, show
from container.errors import InvalidRequest
from container.fan_out import derived_seed
from container.settings import Settings
from handler.protocol import Grammar, SamplingParams

_MAX_SEED = 2**63 - 1


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream carries besides text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False


class SamplingFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's names, then those TGI and vLLM added. None is absent. `user` to `prompt_cache_key` change nothing."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def num_choices(self) -> int:
        """How many answers are wanted."""
        return 1 if self.n is None else self.n

    @property
    def include_usage(self) -> bool:
        """True if a stream ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        """True if every chunk of a stream carries the usage so far."""
        return self.stream_options is not None and self.stream_options.continuous_usage_stats


def check_sampling(request: SamplingFields, settings: Settings) -> None:
    """Raise InvalidRequest naming field, limit and value."""
    for field, low, high in (
        ("temperature", 0.0, 100.0),
        ("min_p", 0.0, 1.0),
        ("frequency_penalty", -2.0, 2.0),
        ("presence_penalty", -2.0, 2.0),
        ("n", 1, settings.max_choices),
        ("seed", -_MAX_SEED - 1, _MAX_SEED),
        ("top_k", -1, 2**31),
        ("min_tokens", 0, 2**31),
        ("max_tokens", 1, 2**31),
    ):
        value = getattr(request, field)
        check(field, f"from {low} to {high}", value, value is None or low <= value <= high)
    for field, limit in (("top_p", 1.0), ("typical_p", 1.0), ("repetition_penalty", 100.0)):
        value = getattr(request, field)
        check(field, f"> 0.0 and <= {limit}", value, value is None or 0.0 < value <= limit)
    _check_stop(request, settings.max_stop_sequences)
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("`stream_options` is only allowed when `stream` is true", param="stream_options")


def _check_stop(request: SamplingFields, limit: int) -> None:
    stops = request.stop_strings
    check("stop", f"at most {limit} strings", len(stops), len(stops) <= limit)
    if not all(stops):
        raise InvalidRequest('`stop` must be made of non-empty strings. Given: ""', param="stop")
    for token_id in request.stop_token_ids or ():
        check("stop_token_ids", "token ids", token_id, 0 <= token_id < 2**31)


def sampling_params(
    request: SamplingFields,
    max_tokens: int,
    *,
    num_logprobs: int | None,
    num_prompt_logprobs: int | None = None,
    grammar: Grammar | None = None,
) -> SamplingParams:
    """OpenAI's defaults: temperature 1, top-p 1, everything else off. A request without a seed gets a random one."""
    return SamplingParams(
        max_tokens=max_tokens,
        seed=secrets.randbits(63) if request.seed is None else request.seed % (1 << 64),
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=request.top_p or 1.0,
        top_k=max(0, request.top_k or 0),
        min_p=request.min_p or 0.0,
        typical_p=request.typical_p or 1.0,
        repetition_penalty=request.repetition_penalty or 1.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        logit_bias=_logit_bias(request.logit_bias or {}),
        min_tokens=min(request.min_tokens or 0, max_tokens),
        ignore_eos=bool(request.ignore_eos),
        stop_token_ids=tuple(request.stop_token_ids or ()),
        num_logprobs=num_logprobs,
        num_prompt_logprobs=num_prompt_logprobs,
        grammar=grammar,
    )


def of_choice(params: SamplingParams, index: int) -> SamplingParams:
    """The parameters of choice `index`: its own seed, and choice 0 keeps the request's."""
    return msgspec.structs.replace(params, seed=derived_seed(params.seed, index))


def _logit_bias(bias: dict[str, float]) -> dict[int, float]:
    result: dict[int, float] = {}
    for key, value in bias.items():
        if not key.isdecimal() or len(key) > 10:
            raise InvalidRequest(f"`logit_bias` must have token ids as keys. Given: {show(key)}", param="logit_bias")
        check(f"logit_bias.{key}", "from -100 to 100", value, -100 <= value <= 100)
        result[int(key)] = value
    return result
