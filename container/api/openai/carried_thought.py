"""A thought inside a field that clients send back as it is: Responses' `encrypted_content`, Messages' `signature`."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode

_PLAIN = "plain:"


def carried(thought: str) -> str:
    """The text in base64: nothing of it is secret, the client has seen it."""
    return _PLAIN + b64encode(thought.encode("utf-8", "surrogatepass")).decode()


def thought_in(field: str) -> str | None:
    """The text that `carried` has put there; None if another server has written the field."""
    if not field.startswith(_PLAIN):
        return None
    try:
        return b64decode(field.removeprefix(_PLAIN), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
