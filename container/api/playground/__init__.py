"""The page at /playground: a chat in the browser, from files of this container alone."""

from container.api.playground.routes import blueprint

__all__ = ["blueprint"]
