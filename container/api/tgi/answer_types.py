"""TGI's answers (`router/src/lib.rs` of TGI v3.3.7): the types that are encoded and that the OpenAPI document shows."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

FinishName = Literal["length", "eos_token", "stop_sequence"]


class AnswerToken(msgspec.Struct, frozen=True):
    """A generated token; `logprob` is from the distribution that it was sampled from."""

    id: int
    text: str
    logprob: float
    special: bool


class PrefillToken(msgspec.Struct, frozen=True):
    """A prompt token; the first has no logprob."""

    id: int
    text: str
    logprob: float | None


class BestOfSequence(msgspec.Struct, frozen=True, kw_only=True):
    """One of the answers of `best_of` that are not the best."""

    generated_text: str
    finish_reason: FinishName
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[AnswerToken]
    top_tokens: list[list[AnswerToken]] | UnsetType = UNSET


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """The details of a whole answer; `seed` is null if nothing was sampled."""

    finish_reason: FinishName
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[AnswerToken]
    best_of_sequences: list[BestOfSequence] | UnsetType = UNSET
    top_tokens: list[list[AnswerToken]] | UnsetType = UNSET


class GenerateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer."""

    generated_text: str
    details: Details | UnsetType = UNSET


class StreamDetails(msgspec.Struct, frozen=True, kw_only=True):
    """The details in the last event of a stream."""

    finish_reason: FinishName
    generated_tokens: int
    seed: int | None
    input_length: int


class StreamEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One token of a stream; `index` starts at 1. The last event has the text and, if requested, the details."""

    index: int
    token: AnswerToken
    top_tokens: list[AnswerToken] | UnsetType = UNSET
    generated_text: str | None
    details: StreamDetails | None


class SimpleToken(msgspec.Struct, frozen=True):
    """A token of an input text and the range of bytes it covers."""

    id: int
    text: str
    start: int
    stop: int


class ChatTokenizeAnswer(msgspec.Struct, frozen=True):
    """A conversation as the model reads it: its text and its tokens."""

    tokenize_response: list[SimpleToken]
    templated_text: str


class VertexAnswer(msgspec.Struct, frozen=True):
    """One text for each instance."""

    predictions: list[str]


class CustomCode(msgspec.Struct, frozen=True):
    """A user's code that runs: its files, and by which toolkit's rules."""

    convention: str
    files: list[str]


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """The model and the limits: TGI 3's names, and those of TGI 2 that clients still read.

    `version` is TGI's, with ours as its local part; `server_version` is ours.
    `engine_threads` is ours: the most threads of a step on CPU, which changes with the container's CPU limit.
    `kv_cache_dtype` is ours: the type of keys and values in KV memory. So are `adapters`, the names of those that are
    loaded, and `max_adapters`, how many are on the device at once.
    `speculate` is the most tokens of a draft.
    `custom_code` is ours: the user's code that answers /invocations. `custom_code_ignored` too: files of the model's
    directory that hold code and are not run.
    """

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_device_type: str
    model_pipeline_tag: str | None
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    max_batch_total_tokens: int
    validation_workers: int
    max_client_batch_size: int
    router: str
    version: str
    server_version: str
    sha: str | None
    docker_label: str | None
    quantize: str
    engine_threads: int
    kv_cache_dtype: str
    adapters: list[str]
    max_adapters: int
    speculate: int
    custom_code: CustomCode | None
    custom_code_ignored: list[str]


class CodeInfo(msgspec.Struct, frozen=True):
    """What runs where the user's code loads its own model: the names of `Info` that need no engine."""

    model_id: str
    model_pipeline_tag: str | None
    router: str
    version: str
    server_version: str
    custom_code: CustomCode | None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """An error: `error` is a sentence, `error_type` its kind in one word."""

    error: str
    error_type: str
