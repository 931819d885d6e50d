"""TGI's GenerateRequest and CompatGenerateRequest (v3.3.7), and their parameters as the engine's."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from container.api.tgi.request.body_shape import shaped
from container.api.tgi.request.grammar_parameter import grammar
from container.api.tgi.request.parameters import ABSENT_PARAMETERS, GenerateParameters, JsonGrammar
from container.api.tgi.request.unknown_names import note_unknown
from container.errors import InvalidRequest
from container.settings import Settings
from handler.seam.protocol import SamplingParams

Inputs = Annotated[str, Meta(extra_json_schema={"minLength": 1})]


class GenerateBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of /generate and /generate_stream; the route decides whether to stream."""

    inputs: Inputs
    parameters: GenerateParameters = ABSENT_PARAMETERS

    @property
    def stream(self) -> bool:
        """Always False: this body has no `stream` key."""
        return False


class CompatGenerateBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of /, /predict and /invocations; `stream` decides whether to stream."""

    inputs: Inputs
    parameters: GenerateParameters = ABSENT_PARAMETERS
    stream: bool = False


def parse_generate(body: dict[str, Any]) -> GenerateBody:
    """Raises WrongShape in TGI's words."""
    parsed = shaped(body, GenerateBody)
    _note_unknown(body)
    return parsed


def parse_compat_generate(body: dict[str, Any]) -> CompatGenerateBody:
    """Raises WrongShape in TGI's words, InvalidRequest for a list of prompts, which pipelines and LMI take."""
    inputs = body.get("inputs")
    if isinstance(inputs, list) and inputs and all(isinstance(each, str) for each in inputs):
        raise InvalidRequest(
            "`inputs` must be one string. For several prompts send one request each, or their list as `prompt`, "
            "OpenAI's field on /v1/completions and /invocations. Given: a list",
            param="inputs",
        )
    parsed = shaped(body, CompatGenerateBody)
    _note_unknown(body)
    return parsed


def _note_unknown(body: dict[str, Any]) -> None:
    parameters = body.get("parameters", {})
    note_unknown(body, CompatGenerateBody)
    note_unknown(parameters, GenerateParameters, "parameters.")
    note_unknown(parameters.get("grammar"), JsonGrammar, "parameters.grammar.")


def sampling_params(parameters: GenerateParameters, max_tokens: int, settings: Settings) -> SamplingParams:
    """Greedy unless TGI would sample; log-probabilities are from the warped distribution.

    Each call draws a new seed if the request has none.
    """
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
        num_prompt_logprobs=0 if p.decoder_input_details else None,
        warped_logprobs=True,
        watermark=(settings.watermark_gamma, settings.watermark_delta) if p.watermark else None,
        grammar=grammar(p.grammar),
    )
