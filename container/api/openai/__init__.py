"""OpenAI's API: /v1/chat/completions, /v1/completions and /v1/models."""

from container.api.dialect import Dialect
from container.api.openai.answer_types import ChatChunk, ChatCompletion, ErrorBody, TextCompletion
from container.api.openai.chat import answer_chat
from container.api.openai.completions import answer_completion
from container.api.openai.document_limits import write_limits
from container.api.openai.error_response import error_response
from container.api.openai.routes import CHAT_FORM, COMPLETION_FORM, blueprint
from container.api.openai.tool_format import tool_format

dialect = Dialect(
    name="openai",
    blueprints=(blueprint,),
    error_response=error_response,
    prefix="/v1",
    write_limits=write_limits,
    about=tool_format,
)

__all__ = [
    "CHAT_FORM",
    "COMPLETION_FORM",
    "ChatChunk",
    "ChatCompletion",
    "ErrorBody",
    "TextCompletion",
    "answer_chat",
    "answer_completion",
    "dialect",
]
