"""Every message on the socket between a web worker and the engine.

One msgpack frame carries one list of messages. The types are tagged msgspec structs that forbid unknown fields, so a
frame can neither name a class nor run code. The receiver drops a frame that does not decode. A request ends in exactly
one terminal message: a `StepOutput` with `finish_reason`, a `Rejected` (never started) or a `Failed` (started, could
not be finished). A message about an adapter is answered by one `AdapterDone` or `AdapterRefused`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec


class FinishReason(enum.StrEnum):
    """Why a sequence ended. If several reasons hold for one token, the first in this order wins."""

    EOS = "eos"
    STOP_TOKEN = "stop_token"  # noqa: S105 - not a password
    STOP_STRING = "stop_string"
    LENGTH = "length"
    ABORTED = "aborted"


class ErrorCode(enum.StrEnum):
    """Machine-readable class of a `Rejected` or `Failed` message."""

    OVERLOADED = "overloaded"
    DRAINING = "draining"
    INVALID = "invalid"
    DEADLINE = "deadline"
    NUMERICS = "numerics"
    OUT_OF_MEMORY = "out_of_memory"
    INTERNAL = "internal"
    ENGINE_DEAD = "engine_dead"
    UNKNOWN_ADAPTER = "unknown_adapter"


# White space that JSON grammars allow: enough for every usual layout. If it is unbounded, small models never stop.
JSON_WHITESPACE = r"(\n {0,16}| ?)"


class GrammarKind(enum.StrEnum):
    """What `Grammar.source` holds."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    LARK = "lark"


class Grammar(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A constraint on the text of the completion; `source` is a JSON schema text, a regex or a Lark grammar.

    `places` says which field of the request the rule of that name was made of; "" is the whole grammar.
    """

    kind: GrammarKind
    source: str
    places: dict[str, str] = {}


class ThinkingLimit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """At most `num_tokens` tokens of thought; then the tokens of `ending` are forced.

    The thought begins after a token of `opened_by` at the start of the answer, or with the answer if that is empty. It
    ends by itself with a token of `closed_by`.
    """

    num_tokens: int
    opened_by: tuple[int, ...]
    closed_by: tuple[int, ...]
    ending: tuple[int, ...]


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How to choose the tokens of one sequence. The dialect that built it has validated the values.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1, `min_p` 0, `typical_p` 1 and the neutral penalties are off.
    `seed` fixes every draw: token i of a request depends on (seed, i) and the logits alone, never on its
    neighbours in the batch. `num_logprobs` None reports nothing, 0 the chosen token, n also the n most likely.
    `warped_logprobs` reports log-probabilities after penalties and warping (TGI) instead of the raw ones (OpenAI).
    `watermark` is the share of green tokens (0 to 1) and the bias added to their logits.
    `allowed_token_ids` are the only tokens that may be chosen, unless there are none.
    Each entry of `bad_words` is a token sequence that must not appear in the output.
    `length_penalised_frequency` divides the frequency penalty by the sequence length, as TGI does.
    """

    max_tokens: int
    seed: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    length_penalised_frequency: bool = False
    logit_bias: dict[int, float] = {}
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    num_logprobs: int | None = None
    num_prompt_logprobs: int | None = None
    warped_logprobs: bool = False
    watermark: tuple[float, float] | None = None
    grammar: Grammar | None = None
    thinking: ThinkingLimit | None = None

    @property
    def greedy(self) -> bool:
        """True if the most likely token is always taken."""
        return self.temperature == 0.0


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Log-probability (natural log) of the chosen token and of the most likely `(token_id, logprob)` pairs.

    `rank` is the token's place among all tokens, from 1; 0 where it was not counted. Tokens of a prompt have it.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    rank: int = 0


class GenerateRequest(msgspec.Struct, frozen=True, tag="generate", array_like=True, forbid_unknown_fields=True):
    """One sequence to generate.

    `request_id` is made by the server (128 random bits), unique for the engine's life. `prompt_token_ids` holds 1 to
    max_input_tokens ids in [0, vocabulary). `timeout_s` is the wall-clock budget from the moment the engine receives
    the message. `cache_salt` separates tenants in the prefix cache; without `reuse_prefix` the request neither reads
    nor fills that cache. `adapter` is the name of a registered adapter, None the base model.
    """

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    timeout_s: float
    cache_salt: str = ""
    reuse_prefix: bool = True
    adapter: str | None = None


class Abort(msgspec.Struct, frozen=True, tag="abort", array_like=True, forbid_unknown_fields=True):
    """Stop a request and free its memory; unknown ids are ignored. There is no reply."""

    request_id: str


class RegisterAdapter(msgspec.Struct, frozen=True, tag="register", array_like=True, forbid_unknown_fields=True):
    """Read an adapter and serve it under `name`; the reply comes when requests may name it.

    `registration` is an id that is new for each registration (`new_registration`), equal in all engines: the engine's
    copy of the files and the prefix cache go by it. An engine that knows it already answers `AdapterDone`.
    `path` is a directory with adapter_config.json and adapter_model.safetensors; it may vanish after the reply.
    A `pin`ned adapter stays on the device. With `replace`, an adapter of this name is unregistered once the new one is
    there; without, the name must be free.
    """

    request_id: str
    name: str
    path: str
    registration: str
    pin: bool = False
    replace: bool = False


class UnregisterAdapter(msgspec.Struct, frozen=True, tag="unregister", array_like=True, forbid_unknown_fields=True):
    """Forget an adapter. From the reply on its name is unknown; requests that the engine has taken still finish."""

    request_id: str
    name: str


class UpdateAdapter(msgspec.Struct, frozen=True, tag="update", array_like=True, forbid_unknown_fields=True):
    """Pin a registered adapter to the device, or no longer."""

    request_id: str
    name: str
    pin: bool


class StepOutput(msgspec.Struct, frozen=True, tag="output", array_like=True, forbid_unknown_fields=True):
    """Tokens one step produced for one request; terminal if `finish_reason` is set.

    `logprobs` has one entry per token when requested. `prompt_logprobs` comes once, with the first token, one entry
    per prompt token after the first. `start` counts the output tokens sent before these, so that the receiver detects
    duplicate, late and lost frames.
    `num_cached_tokens` counts prompt tokens served from the prefix cache. Times are seconds on the engine's clock.
    """

    request_id: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    num_cached_tokens: int = 0
    queue_time_s: float = 0.0
    inference_time_s: float = 0.0
    start: int = 0


class Rejected(msgspec.Struct, frozen=True, tag="rejected", array_like=True, forbid_unknown_fields=True):
    """Terminal: the engine did not start the request. Clients may see the message."""

    request_id: str
    code: ErrorCode
    message: str


class Failed(msgspec.Struct, frozen=True, tag="failed", array_like=True, forbid_unknown_fields=True):
    """Terminal: the request was started and cannot be finished. Clients may see the message."""

    request_id: str
    code: ErrorCode
    message: str


class AdapterErrorCode(enum.StrEnum):
    """Why an engine refuses to change its adapters.

    `INVALID`: the message contradicts what is registered. `BAD`: the files, or this model, do not allow it.
    `FULL`: no memory, or no place, is left. `UNKNOWN`: no adapter has this name. `DRAINING`: the server
    is shutting down.
    """

    INVALID = "invalid"
    BAD = "bad"
    FULL = "full"
    UNKNOWN = "unknown"
    DRAINING = "draining"


class AdapterDone(msgspec.Struct, frozen=True, tag="adapter_done", array_like=True, forbid_unknown_fields=True):
    """The engine has done what a message about an adapter asked for."""

    request_id: str


class AdapterRefused(msgspec.Struct, frozen=True, tag="adapter_refused", array_like=True, forbid_unknown_fields=True):
    """The engine has changed nothing. Clients may see the message."""

    request_id: str
    code: AdapterErrorCode
    message: str


AdapterMessage = RegisterAdapter | UnregisterAdapter | UpdateAdapter
AdapterReply = AdapterDone | AdapterRefused
ToEngine = GenerateRequest | Abort | RegisterAdapter | UnregisterAdapter | UpdateAdapter
FromEngine = StepOutput | Rejected | Failed
EngineMessage = StepOutput | Rejected | Failed | AdapterDone | AdapterRefused


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """The loaded model as the web side needs it; the engine writes it as JSON before it reports ready.

    `tokenizer_dir` holds tokenizer.json and, where the model has them, tokenizer_config.json and a chat template.
    Lengths are in tokens. `max_waiting_tokens` bounds all queued prompts together, 0 means no bound;
    `max_concurrent_requests` the sequences in flight.
    `kv_cache_dtype` is the type of keys and values in KV memory, "" if unknown.
    `vocab_size` is the width of the logits, which may exceed the tokenizer's. `runner` is `slots`, `paged` or
    `dynamic_cache`. `num_draft_tokens` is the longest draft, 0 without speculation. `custom_code` lists files of the
    model's directory that hold code and are not run.
    """

    model_id: str
    tokenizer_dir: str
    revision: str | None
    vocab_size: int
    max_model_len: int
    eos_token_ids: list[int]
    dtype: str
    device: str
    quantize: str
    kv_capacity_tokens: int
    max_waiting_tokens: int = 0
    max_concurrent_requests: int = 128
    runner: str = "slots"
    kv_cache_dtype: str = ""
    num_draft_tokens: int = 0
    custom_code: list[str] = msgspec.field(default_factory=list)


_to_engine_encoder = msgspec.msgpack.Encoder()
_to_engine_decoder = msgspec.msgpack.Decoder(list[ToEngine])
_from_engine_decoder = msgspec.msgpack.Decoder(list[EngineMessage])


def encode(messages: Sequence[ToEngine] | Sequence[EngineMessage]) -> bytes:
    """One frame for a list of messages."""
    return _to_engine_encoder.encode(messages)


def decode_to_engine(frame: bytes) -> list[ToEngine]:
    """Messages a worker sent. Raises msgspec.ValidationError or DecodeError on anything else."""
    return _to_engine_decoder.decode(frame)


def decode_from_engine(frame: bytes) -> list[EngineMessage]:
    """Messages the engine sent. Raises msgspec.ValidationError or DecodeError on anything else."""
    return _from_engine_decoder.decode(frame)
