"""SageMaker's POST /invocations: the body's shape decides which dialect answers."""

from container.api import tgi
from container.api.dialect import Dialect
from container.api.sagemaker.routes import blueprint

# Until the shape is known, errors are TGI's.
dialect = Dialect(blueprint=blueprint, error_response=tgi.error_response, prefix="/invocations")

__all__ = ["dialect"]
