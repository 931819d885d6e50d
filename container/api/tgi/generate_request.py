"""TGI's GenerateRequest and its parameters, with TGI's defaults, order of checks and error texts (v3.3.7)."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from container.api.validation import convert
from container.errors import InvalidRequest
from container.settings import Settings
from handler.protocol import SamplingParams

_MAX_SEED = 2**64


class GenerateParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Unknown keys are ignored, as TGI does. `do_sample` is false when parameters are given without it."""

    best_of: int | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: int | None = None
    return_full_text: bool | None = None
    stop: list[str] = []
    truncate: int | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: int | None = None
    top_n_tokens: int | None = None
    grammar: dict[str, Any] | None = None
    adapter_id: str | None = None

    @property
    def samples(self) -> bool:
        """TGI's rule: `do_sample`, or any warper that is active."""
        return self.do_sample or self._warps

    @property
    def _warps(self) -> bool:
        return (
            self.temperature not in {None, 1.0}
            or self.top_k is not None
            or (self.top_p is not None and self.top_p < 1.0)
            or (self.typical_p is not None and self.typical_p < 1.0)
        )


# TGI samples if a request has no `parameters` at all, and is greedy if it has an empty object.
_ABSENT = GenerateParameters(do_sample=True)


class GenerateBody(msgspec.Struct, frozen=True, kw_only=True):
    """`stream` is read on / and /invocations only."""

    inputs: str
    parameters: GenerateParameters = _ABSENT
    stream: bool = False


def parse_generate_request(body: dict[str, Any], settings: Settings, *, streaming: bool) -> GenerateBody:
    """Raises InvalidRequest in TGI's words."""
    request = convert(body, GenerateBody)
    parameters = request.parameters
    _refuse_unsupported(parameters)
    if streaming and parameters.decoder_input_details:
        raise InvalidRequest("`decoder_input_details` == true is not supported when streaming tokens")
    _check(parameters, settings)
    if not request.inputs:
        raise InvalidRequest("`inputs` cannot be empty", param="inputs")
    return request


def _refuse_unsupported(parameters: GenerateParameters) -> None:
    if parameters.best_of not in {None, 1}:
        raise InvalidRequest(f"`best_of` must be 1. Given: {parameters.best_of}", param="best_of")
    for field in ("watermark", "decoder_input_details", "grammar", "adapter_id"):
        if getattr(parameters, field):
            raise InvalidRequest(f"`{field}` is not supported", param=field)


def _check(parameters: GenerateParameters, settings: Settings) -> None:
    p = parameters
    _positive("temperature", p.temperature)
    _positive("repetition_penalty", p.repetition_penalty)
    if p.frequency_penalty is not None and not -2.0 <= p.frequency_penalty <= 2.0:
        raise InvalidRequest("`frequency_penalty` must be >= -2.0 and <= 2.0", param="frequency_penalty")
    for field in ("top_p", "typical_p"):
        value = getattr(p, field)
        if value is not None and not 0.0 < value < 1.0:
            raise InvalidRequest(f"`{field}` must be > 0.0 and < 1.0", param=field)
    _positive("top_k", p.top_k)
    _positive("max_new_tokens", p.max_new_tokens)
    if len(p.stop) > settings.max_stop_sequences:
        raise InvalidRequest(
            f"`stop` supports up to {settings.max_stop_sequences} stop sequences. Given: {len(p.stop)}",
            param="stop",
        )
    if not all(p.stop):
        raise InvalidRequest("`stop` must be made of non-empty strings", param="stop")
    if p.seed is not None and not 0 <= p.seed < _MAX_SEED:
        raise InvalidRequest(f"`seed` must be >= 0 and < 2^64. Given: {p.seed}", param="seed")
    if p.top_n_tokens is not None and not 0 <= p.top_n_tokens <= settings.max_top_n_tokens:
        raise InvalidRequest(
            f"`top_n_tokens` must be >= 0 and <= {settings.max_top_n_tokens}. Given: {p.top_n_tokens}",
            param="top_n_tokens",
        )


def _positive(field: str, value: float | None) -> None:
    if value is not None and value <= 0:
        raise InvalidRequest(f"`{field}` must be strictly positive", param=field)


def check_truncate(parameters: GenerateParameters, max_input_tokens: int) -> int | None:
    """The number of last prompt tokens to keep. Raises InvalidRequest in TGI's words."""
    value = parameters.truncate
    if value is not None and not 0 < value <= max_input_tokens:
        raise InvalidRequest(
            f"`truncate` must be strictly positive and less than {max_input_tokens}. Given: {value}",
            param="truncate",
        )
    return value


def sampling_params(parameters: GenerateParameters, max_tokens: int) -> SamplingParams:
    """Greedy unless TGI would sample; log-probabilities are those of the warped distribution."""
    p = parameters
    temperature = (p.temperature or 1.0) if p.samples else 0.0
    return SamplingParams(
        max_tokens=max_tokens,
        seed=secrets.randbits(63) if p.seed is None else p.seed,
        temperature=temperature,
        top_k=p.top_k or 0,
        top_p=p.top_p or 1.0,
        typical_p=p.typical_p or 1.0,
        repetition_penalty=p.repetition_penalty or 1.0,
        frequency_penalty=p.frequency_penalty or 0.0,
        length_penalised_frequency=bool(p.frequency_penalty),
        num_logprobs=p.top_n_tokens or 0,
        warped_logprobs=True,
    )
