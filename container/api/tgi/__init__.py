"""Text Generation Inference's own API, v3.3.7: /, /generate, /generate_stream, /tokenize, /vertex, /info and more."""

from container.api.dialect import Dialect
from container.api.tgi import document_rules, routes, vertex_routes
from container.api.tgi.answer_types import ErrorAnswer, GenerateAnswer, SimpleToken, StreamEvent
from container.api.tgi.document_limits import write_limits
from container.api.tgi.error_response import error_response
from container.api.tgi.request.generate_request import CompatGenerateBody
from container.api.tgi.routes import answer_compat_generate, answer_generate
from container.api.tgi.token_routes import TokenizeBody, answer_chat_tokenize, answer_tokenize
from container.api.tgi.token_routes import blueprint as token_blueprint

dialect = Dialect(
    name="tgi",
    blueprints=(routes.blueprint, token_blueprint, vertex_routes.blueprint),
    error_response=error_response,
    prefix="/",
    write_limits=write_limits,
)

__all__ = [
    "CompatGenerateBody",
    "ErrorAnswer",
    "GenerateAnswer",
    "SimpleToken",
    "StreamEvent",
    "TokenizeBody",
    "answer_chat_tokenize",
    "answer_compat_generate",
    "answer_generate",
    "answer_tokenize",
    "dialect",
    "document_rules",
    "error_response",
    "token_blueprint",
]
