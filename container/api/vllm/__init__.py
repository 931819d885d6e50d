"""vLLM's routes: /tokenize, a path that TGI has too, /detokenize, /tokenizer_info, and those of adapters."""

from container.api.dialect import Dialect
from container.api.openai.error_response import error_response
from container.api.vllm import adapter_routes
from container.api.vllm.document_limits import write_limits
from container.api.vllm.routes import NAME, answer_detokenize, answer_tokenize, blueprint

dialect = Dialect(
    name=NAME,
    blueprints=(blueprint, adapter_routes.blueprint),
    error_response=error_response,
    prefix="/detokenize",
    write_limits=write_limits,
)

__all__ = ["answer_detokenize", "answer_tokenize", "dialect"]
