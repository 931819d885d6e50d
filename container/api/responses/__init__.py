"""OpenAI's Responses: /v1/responses, which is a chat of package openai in other words."""

from container.api.dialect import Dialect
from container.api.openai.error_response import error_response
from container.api.responses.answer import answer_response
from container.api.responses.answer_types import EVENTS, ResponseAnswer
from container.api.responses.document_limits import write_limits
from container.api.responses.routes import FORM, blueprint

dialect = Dialect(
    name="responses",
    blueprints=(blueprint,),
    error_response=error_response,
    prefix="/v1/responses",
    write_limits=write_limits,
)

__all__ = ["EVENTS", "FORM", "ResponseAnswer", "answer_response", "dialect"]
