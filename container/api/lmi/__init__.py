"""LMI's management of adapters, which SageMaker calls for adapter inference components: /adapters."""

from container.api.dialect import Dialect
from container.api.lmi.error_response import error_response
from container.api.lmi.routes import blueprint

dialect = Dialect(name="lmi", blueprints=(blueprint,), error_response=error_response, prefix="/adapters")

__all__ = ["dialect"]
