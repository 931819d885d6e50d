"""The answers of Messages: the types that are encoded and that the OpenAPI document shows."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class TextAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """A piece of the answer's text."""

    text: str


class ThinkingAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="thinking"):
    """A thought. `signature` marks it as this server's, and holds its text if that is left out."""

    thinking: str
    signature: str


class ToolUseAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="tool_use"):
    """A call that the client should make. Text that is no JSON object is the value of the key `INVALID_JSON`."""

    id: str
    name: str
    input: dict[str, Any]


class ThinkingDetails(msgspec.Struct, frozen=True):
    """Tokens of thoughts."""

    thinking_tokens: int


class MessageUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of tokens; `input_tokens` are those that no cache had."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingDetails
    service_tier: Literal["standard"] = "standard"


class MessageAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole message."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[TextAnswer | ThinkingAnswer | ToolUseAnswer]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class MessageStart(msgspec.Struct, frozen=True, kw_only=True):
    """The message, still empty."""

    type: Literal["message_start"] = "message_start"
    message: MessageAnswer


class BlockStart(msgspec.Struct, frozen=True, kw_only=True):
    """A block begins, empty."""

    type: Literal["content_block_start"] = "content_block_start"
    index: int
    content_block: TextAnswer | ThinkingAnswer | ToolUseAnswer


class TextPiece(msgspec.Struct, frozen=True, tag_field="type", tag="text_delta"):
    """More text."""

    text: str


class ThinkingPiece(msgspec.Struct, frozen=True, tag_field="type", tag="thinking_delta"):
    """More of a thought."""

    thinking: str


class SignaturePiece(msgspec.Struct, frozen=True, tag_field="type", tag="signature_delta"):
    """The end of a thought."""

    signature: str


class InputPiece(msgspec.Struct, frozen=True, tag_field="type", tag="input_json_delta"):
    """More of the JSON text of a call's input."""

    partial_json: str


Piece = TextPiece | ThinkingPiece | SignaturePiece | InputPiece


class BlockDelta(msgspec.Struct, frozen=True, kw_only=True):
    """More of a block."""

    type: Literal["content_block_delta"] = "content_block_delta"
    index: int
    delta: TextPiece | ThinkingPiece | SignaturePiece | InputPiece


class BlockStop(msgspec.Struct, frozen=True, kw_only=True):
    """A block is complete."""

    type: Literal["content_block_stop"] = "content_block_stop"
    index: int


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """Why the message ends."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(msgspec.Struct, frozen=True, kw_only=True):
    """The end of the message, with all counts."""

    type: Literal["message_delta"] = "message_delta"
    delta: Stop
    usage: MessageUsage


class MessageStop(msgspec.Struct, frozen=True, kw_only=True):
    """The last event."""

    type: Literal["message_stop"] = "message_stop"


class Ping(msgspec.Struct, frozen=True, kw_only=True):
    """The stream is alive."""

    type: Literal["ping"] = "ping"


class MessagesFault(msgspec.Struct, frozen=True):
    """What is wrong, in one of Anthropic's types."""

    type: str
    message: str


class MessagesError(msgspec.Struct, frozen=True, kw_only=True):
    """An error of Anthropic's routes, also as an event."""

    type: Literal["error"] = "error"
    error: MessagesFault
    request_id: str | None = None


class TokenCount(msgspec.Struct, frozen=True):
    """The length of a prompt."""

    input_tokens: int


EVENTS = (MessageStart, BlockStart, BlockDelta, BlockStop, MessageDelta, MessageStop, Ping, MessagesError)
