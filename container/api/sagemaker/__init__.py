"""SageMaker's POST /invocations: the body's shape decides which dialect answers."""

from container.api import tgi
from container.api.dialect import Dialect
from container.api.sagemaker.routes import blueprint

# Errors are TGI's until the body's shape is known.
dialect = Dialect(name="sagemaker", blueprints=(blueprint,), error_response=tgi.error_response, prefix="/invocations")

__all__ = ["dialect"]
