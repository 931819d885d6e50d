"""Anthropic's Messages: /v1/messages, which is a chat of package openai in other words."""

from container.api.anthropic.answer import answer_count, answer_messages
from container.api.anthropic.answer_types import EVENTS, MessageAnswer, MessagesError
from container.api.anthropic.document_limits import write_limits
from container.api.anthropic.error_response import error_response
from container.api.anthropic.routes import FORM, blueprint
from container.api.anthropic.shape import is_anthropics
from container.api.dialect import Dialect

dialect = Dialect(
    name="anthropic",
    blueprints=(blueprint,),
    error_response=error_response,
    prefix="/v1/messages",
    write_limits=write_limits,
    id_header="request-id",
)

__all__ = [
    "EVENTS",
    "FORM",
    "MessageAnswer",
    "MessagesError",
    "answer_count",
    "answer_messages",
    "dialect",
    "is_anthropics",
]
