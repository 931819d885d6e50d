"""OpenAI's API: /v1/chat/completions, /v1/completions and /v1/models."""

from container.api.dialect import Dialect
from container.api.openai.answer_types import ChatChunk, ChatCompletion, ErrorBody, TextCompletion
from container.api.openai.chat import answer_chat
from container.api.openai.completions import answer_completion
from container.api.openai.document_limits import write_limits
from container.api.openai.routes import CHAT_FORM, COMPLETION_FORM, blueprint
from container.errors import ServiceError
from container.web.responses import json_response

dialect = Dialect(
    blueprint=blueprint,
    error_response=lambda error: json_response(ServiceError.openai_body(error), error.status),
    prefix="/v1",
    write_limits=write_limits,
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
