"""The Accept header of a request, as a user's code and the default encoders read it."""

from __future__ import annotations

import json
from collections.abc import Collection

from sagemaker_inference import content_types

EVENT_STREAM = "text/event-stream"


class Accept:
    """An Accept header; `default` is what counts where a client leaves the type open.

    `body` is the request's: `"stream": true` in it asks for a stream as clients of TGI and OpenAI do.
    """

    def __init__(self, header: str | None, default: str, body: bytes = b"") -> None:
        # What a user's function is given, as sagemaker-inference and the Hugging Face toolkit hand it over.
        self.value = default if not header or header.strip() == content_types.ANY else header
        self._default = default
        self._asks_to_stream = _asks_to_stream(body)
        self._types = [media_type(item) for item in self.value.split(",") if item.strip() and not _is_refused(item)]

    def choose(self, supported: Collection[str]) -> str | None:
        """The first type named that is supported; None: none is. Order counts, weights do not, but for q=0."""
        for name in self._types:
            if name in supported:
                return name
            kind = name.partition("/")[0]
            if name.endswith("/*"):
                fits = [one for one in (self._default, *supported) if kind == "*" or one.startswith(f"{kind}/")]
                found = next((one for one in fits if one in supported), None)
                if found is not None:
                    return found
        return None

    @property
    def content_type(self) -> str:
        """The type of a body whose type its maker does not say: the first that is no pattern."""
        if "," not in self.value and not self.value.rstrip().endswith("/*"):
            return self.value
        return next((name for name in self._types if not name.endswith("/*")), self._default)

    @property
    def is_open(self) -> bool:
        """Whether the client names no type at all."""
        return not any(name for name in self._types if not name.endswith("/*")) or self.value == self._default

    @property
    def takes_events(self) -> bool:
        """Whether the client asks for server-sent events by name."""
        return EVENT_STREAM in self._types

    @property
    def prefers_events(self) -> bool:
        """Whether parts that are neither text nor bytes go as events: those clients read nothing else."""
        return self.takes_events or (self._asks_to_stream and self.is_open)


def media_type(value: str) -> str:
    """A type without its parameters, in lower case."""
    return value.partition(";")[0].strip().lower()


def _asks_to_stream(body: bytes) -> bool:
    if b'"stream"' not in body:
        return False
    try:
        data = json.loads(body)
    except ValueError:
        return False
    return isinstance(data, dict) and data.get("stream") is True


def _is_refused(item: str) -> bool:
    parameters = {part.strip().lower() for part in item.split(";")[1:]}
    return bool(parameters & {"q=0", "q=0.0", "q=0.00", "q=0.000"})
