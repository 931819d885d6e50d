"""The answers of Responses: the types that are encoded and that the OpenAPI document shows."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from container.api.openai.answer_types import ScoredToken

Status = Literal["in_progress", "completed", "incomplete"]


class OutputText(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="output_text"):
    """A piece of the answer's text; `logprobs` are empty unless they are asked for."""

    text: str
    annotations: list[Any] = []
    logprobs: list[ScoredToken] = []


class ReasoningText(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning_text"):
    """A piece of a thought."""

    text: str


class OutputMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """The answer's text."""

    id: str
    role: Literal["assistant"] = "assistant"
    status: Status
    content: list[OutputText]


class OutputReasoning(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    """A thought. `encrypted_content` is the same text in base64, for clients that send nothing else back."""

    id: str
    status: Status
    summary: list[Any] = []
    content: list[ReasoningText]
    encrypted_content: str | UnsetType = UNSET


class OutputCall(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"):
    """A function call that the client should make. `call_id` joins it to its result; `id` is the item's."""

    id: str
    status: Status
    call_id: str
    name: str
    namespace: str | UnsetType = UNSET
    arguments: str


OutputItem = OutputMessage | OutputReasoning | OutputCall


class InputDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of the prompt found in the prefix cache."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of thoughts."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of tokens."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why the answer ends early."""

    reason: Literal["max_output_tokens"]


class ResponseFault(msgspec.Struct, frozen=True, kw_only=True):
    """Why the answer failed."""

    code: str
    message: str


class ResponseAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole response; after `usage`, what the request asked for."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: bool = False
    error: ResponseFault | None = None
    incomplete_details: IncompleteDetails | None = None
    model: str
    output: list[OutputMessage | OutputReasoning | OutputCall]
    usage: ResponseUsage | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None = None
    prompt_cache_key: str | None = None
    reasoning: dict[str, Any]
    safety_identifier: str | None = None
    service_tier: str = "default"
    store: bool = False
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[Any]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    user: str | None = None


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    sequence_number: int


class ResponseEvent(_Event, frozen=True, kw_only=True):
    """The response as it is: at the beginning, in silence (`in_progress`), and whole at the end."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: ResponseAnswer


class ItemEvent(_Event, frozen=True, kw_only=True):
    """An item begins or is complete."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputMessage | OutputReasoning | OutputCall


class _PartOfItem(_Event, frozen=True, kw_only=True):
    item_id: str
    output_index: int


class PartEvent(_PartOfItem, frozen=True, kw_only=True):
    """A part of a message or of a thought begins or is complete."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: int = 0
    part: OutputText | ReasoningText


class TextDelta(_PartOfItem, frozen=True, kw_only=True):
    """More text, with the log-probabilities of its tokens if they are asked for."""

    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    content_index: int = 0
    delta: str
    logprobs: list[ScoredToken]


class TextDone(_PartOfItem, frozen=True, kw_only=True):
    """The whole text."""

    type: Literal["response.output_text.done"] = "response.output_text.done"
    content_index: int = 0
    text: str
    logprobs: list[ScoredToken]


class ReasoningDelta(_PartOfItem, frozen=True, kw_only=True):
    """More of a thought."""

    type: Literal["response.reasoning_text.delta"] = "response.reasoning_text.delta"
    content_index: int = 0
    delta: str


class ReasoningDone(_PartOfItem, frozen=True, kw_only=True):
    """The whole thought."""

    type: Literal["response.reasoning_text.done"] = "response.reasoning_text.done"
    content_index: int = 0
    text: str


class ArgumentsDelta(_PartOfItem, frozen=True, kw_only=True):
    """More of a call's arguments."""

    type: Literal["response.function_call_arguments.delta"] = "response.function_call_arguments.delta"
    delta: str


class ArgumentsDone(_PartOfItem, frozen=True, kw_only=True):
    """The whole arguments."""

    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    name: str
    arguments: str


EVENTS = (
    *(ResponseEvent, ItemEvent, PartEvent, TextDelta, TextDone),
    *(ReasoningDelta, ReasoningDone, ArgumentsDelta, ArgumentsDone),
)
