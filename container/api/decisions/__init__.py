"""OpenAI's Decisions: /v1/decisions, and what all questions about a text are answered by."""

from container.api.decisions.answer import answer_decision
from container.api.decisions.answer_types import DecisionObject
from container.api.decisions.document_limits import write_limits
from container.api.decisions.routes import FORM, blueprint
from container.api.dialect import Dialect
from container.api.openai.error_response import error_response

dialect = Dialect(
    name="decisions",
    blueprints=(blueprint,),
    error_response=error_response,
    prefix="/v1/decisions",
    write_limits=write_limits,
)

__all__ = ["FORM", "DecisionObject", "answer_decision", "dialect"]
