"""SageMaker's POST /invocations: the body's shape decides which dialect answers."""

from container.api.sagemaker.routes import blueprint

__all__ = ["blueprint"]
