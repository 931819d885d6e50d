"""Documents for people and programs: Swagger UI at /docs and the OpenAPI document it shows."""

from container.api.documents.routes import blueprint, pages

__all__ = ["blueprint", "pages"]
