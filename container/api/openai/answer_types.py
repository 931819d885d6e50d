"""The answers of OpenAI's routes: the types that are encoded and that the OpenAPI document shows."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

ChatFinish = Literal["stop", "length", "tool_calls"]
TextFinish = Literal["stop", "length"]


class TokenEntry(msgspec.Struct, frozen=True):
    """A token as text and as the bytes it adds to the text, with its log-probability (natural log)."""

    token: str
    logprob: float
    bytes: list[int]


class ScoredToken(msgspec.Struct, frozen=True):
    """A generated token and the most likely alternatives."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TokenEntry]


class ChatLogprobsAnswer(msgspec.Struct, frozen=True):
    """Log-probabilities of a chat choice or of one chunk of it."""

    content: list[ScoredToken]
    refusal: None = None


class CalledFunctionAnswer(msgspec.Struct, frozen=True):
    """`arguments` is JSON text as the model wrote it; it may be cut short."""

    name: str
    arguments: str


class ToolCallAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A function call that the client should make."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunctionAnswer


class AnswerMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A whole message. `content` is null if there are only calls."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCallAnswer] | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET


class PromptToken(msgspec.Struct, frozen=True):
    """A token that the prompt has, or could have, at one position; rank 1 is the most likely (vLLM)."""

    logprob: float
    rank: int
    decoded_token: str


# For each position the prompt's own token and the most likely ones, by id; the first has no log-probabilities.
PromptLogprobs = list[dict[str, PromptToken] | None]


class ChatChoiceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One of `n` answers. `token_ids` are those generated, if the request asks for them (vLLM)."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobsAnswer | None
    finish_reason: ChatFinish
    token_ids: list[int] | UnsetType = UNSET


class FunctionFragment(msgspec.Struct, frozen=True, kw_only=True):
    """The name comes with the first fragment of a call; all `arguments` together are the JSON text."""

    name: str | UnsetType = UNSET
    arguments: str


class CallFragment(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of call number `index`; id and type come with the first."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionFragment


class ChatDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[CallFragment] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of a chunk; the last chunk of a choice has its `finish_reason`."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobsAnswer | None
    finish_reason: ChatFinish | None
    token_ids: list[int] | UnsetType = UNSET


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """Prompt tokens found in the prefix cache."""

    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    """Tokens of the answer's reasoning."""

    reasoning_tokens: int


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt counts once, whatever `n`; every generated token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET


class _ChatHead(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    created: int
    model: str
    system_fingerprint: str
    service_tier: Literal["default"] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(_ChatHead, frozen=True, kw_only=True):
    """A whole answer."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoiceAnswer]
    usage: Usage
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class ChatChunk(_ChatHead, frozen=True, kw_only=True):
    """One event of a stream. `usage` is null except in the last event, and absent if the request did not ask for it."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET


class TextLogprobs(msgspec.Struct, frozen=True):
    """Parallel lists; the first token of an echoed prompt has no log-probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer to one prompt, or one chunk of it. The fields after `finish_reason` are vLLM's, if asked for; a stream
    has `prompt_token_ids` in a choice's first chunk."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: TextFinish | None
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class TextCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer, or one event of a stream, where `usage` is as in `ChatChunk`."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage | UnsetType | None = UNSET


class ModelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The model that is served, or an adapter of it; `max_model_len` is prompt and completion together, in tokens.

    As in vLLM `root` is where an adapter was loaded from and `parent` its model.
    """

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str
    max_model_len: int
    root: str
    parent: str | None = None


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """The model and its adapters."""

    object: Literal["list"] = "list"
    data: list[ModelAnswer]


class ErrorFields(msgspec.Struct, frozen=True):
    """`param` is the field at fault, `code` the kind of error in one word."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(msgspec.Struct, frozen=True):
    """An error of OpenAI's routes."""

    error: ErrorFields
