"""The API key of a request: `Authorization: Bearer`, or `x-api-key` as Anthropic's clients send it."""

from __future__ import annotations

import hashlib

from flask import Request

_OTHER = "X-Api-Key"


def given_keys(request: Request) -> list[str]:
    """The keys that a request has, of which one must be right."""
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    keys = [bearer] if scheme.lower() == "bearer" else []
    return [*keys, *([request.headers[_OTHER]] if _OTHER in request.headers else [])]


def tenant_of(request: Request) -> str:
    """What tells one tenant from another without revealing its credentials, empty without any."""
    given = "\n".join(filter(None, (request.headers.get("Authorization", ""), request.headers.get(_OTHER, ""))))
    return hashlib.sha256(given.encode("utf-8", "surrogateescape")).hexdigest()[:32] if given else ""
