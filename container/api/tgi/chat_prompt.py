"""A conversation sent to TGI's own routes, rendered by the model's chat template."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from container.api.tgi.answer_types import SimpleToken
from container.api.tgi.request.parameters import USize
from container.errors import TemplateFailed
from container.monitoring.request_record import timed
from container.serving.served_model import ServedModel
from container.text.chat_template import RenderedPrompt, TemplateError
from container.text.tokenizer import Tokenizer, TokenSpan

_TEXT_PART = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
}
_CONTENT = [{"type": "string"}, {"type": "array", "items": _TEXT_PART}]
_MESSAGE = {
    "type": "object",
    "required": ["role"],
    "properties": {"role": {"type": "string"}, "content": {"anyOf": [*_CONTENT, {"type": "null"}]}},
    "anyOf": [
        {"required": ["content"], "properties": {"content": {"anyOf": _CONTENT}}},
        {"required": ["tool_calls"], "properties": {"tool_calls": {"type": "array", "minItems": 1}}},
    ],
}
_SEEDS = 2**64


class ChatBody(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a chat request that /chat_tokenize and /vertex read; all others are ignored."""

    messages: Annotated[list[Annotated[dict[str, Any], Meta(extra_json_schema=_MESSAGE)]], Meta(min_length=1)]
    tools: list[dict[str, Any]] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=2**32 - 1)] | None = None
    seed: Annotated[USize | None, Meta(extra_json_schema={"maximum": _SEEDS - 1})] = None

    def __post_init__(self) -> None:
        """Check what templates rely on and types cannot express."""
        for i, message in enumerate(self.messages):
            if not isinstance(message.get("role"), str):
                raise ValueError(f"`role` of messages[{i}] to be a string")
            content, calls = message.get("content"), message.get("tool_calls")
            parts = isinstance(content, list) and all(map(_is_part, content))
            if not (isinstance(content, str) or parts or (content is None and isinstance(calls, list) and calls)):
                raise ValueError(f"`content` of messages[{i}] to be a string or an array of parts")
        if self.seed is not None and self.seed >= _SEEDS:
            raise ValueError("`seed` to be below 2^64")


def _is_part(part: Any) -> bool:
    """Images pass: `render` refuses them with a message of its own."""
    if not isinstance(part, dict):
        return False
    return part.get("type") == "image_url" or (part.get("type") == "text" and isinstance(part.get("text"), str))


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return content if isinstance(content, list) else []


def render(chat: ChatBody, served: ServedModel) -> RenderedPrompt:
    """The prompt. A final assistant message is continued, its trailing white space removed, as in TGI.

    Raises TemplateFailed.
    """
    if served.chat_template is None:
        raise TemplateFailed("template not found")
    # The template of an image-text model would write the image's token, with no image behind it.
    if any(part["type"] == "image_url" for message in chat.messages for part in _parts(message)):
        raise TemplateFailed("images are not served; content must be text")
    continues = chat.messages[-1].get("role") == "assistant"
    try:
        with timed("template"):
            rendered = served.chat_template.render(
                chat.messages,
                tools=chat.tools or None,
                add_generation_prompt=not continues,
                continue_final_message=continues,
            )
    except TemplateError as exc:
        raise TemplateFailed(str(exc)) from exc
    return msgspec.structs.replace(rendered, marked=rendered.marked.rstrip()) if continues else rendered


def spans(rendered: RenderedPrompt, tokenizer: Tokenizer) -> list[SimpleToken]:
    """The tokens of `rendered.encode`, each with the bytes of `rendered.text` that it covers."""
    pieces = [rendered.marked] if rendered.mark is None else rendered.marked.split(rendered.mark)
    found: list[SimpleToken] = []
    offset = 0
    for number, piece in enumerate(pieces):
        if piece:
            for span in tokenizer.spans(piece, add_special_tokens=False) if not number else _after(piece, tokenizer):
                found.append(SimpleToken(span.id, span.text, span.start + offset, span.stop + offset))
        offset += len(piece.encode("utf-8", "surrogatepass"))
    return found


def _after(piece: str, tokenizer: Tokenizer) -> list[TokenSpan]:
    """The tokens of `Tokenizer.encode_continuation`, with their spans."""
    ids = tokenizer.encode_continuation(piece)
    plain = tokenizer.spans(piece, add_special_tokens=False)
    if [span.id for span in plain] == ids:
        return plain
    # `encode_continuation` encoded it after a newline and dropped the newline's tokens.
    behind = tokenizer.spans("\n" + piece, add_special_tokens=False)[-len(ids) :]
    return [TokenSpan(span.id, span.text, span.start - 1, span.stop - 1) for span in behind]
