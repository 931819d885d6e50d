"""System One: /v1/systemone, which asks the questions of package decisions in other words."""

from container.api.dialect import Dialect
from container.api.systemone.answer import answer_systemone
from container.api.systemone.answer_types import SystemOneAnswers, SystemOneError
from container.api.systemone.document_limits import write_limits
from container.api.systemone.error_response import error_response
from container.api.systemone.routes import FORM, blueprint

dialect = Dialect(
    name="systemone",
    blueprints=(blueprint,),
    error_response=error_response,
    prefix="/v1/systemone",
    write_limits=write_limits,
)

__all__ = ["FORM", "SystemOneAnswers", "SystemOneError", "answer_systemone", "dialect"]
