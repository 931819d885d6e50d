"""A handler of Inference Endpoints that streams the answer sentence by sentence, for a voice that reads it out.

POST / with {"inputs": "...", "parameters": {"max_new_tokens": 100}, "stream": true}. The sentences are
server-sent events, or lines of JSON with `Accept: application/jsonlines`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

END = re.compile(r"(?<=[.!?])\s+")


def sentences(pieces: Iterable[str]) -> Iterator[str]:
    """Whole sentences, each as soon as the next begins."""
    text = ""
    for piece in pieces:
        *whole, text = END.split(text + piece)
        yield from whole
    if text:
        yield text


class EndpointHandler:
    """With a parameter `model` the constructor gets the server's own model; without, the handler loads one."""

    def __init__(self, path: str = "", model: Any = None) -> None:
        self.model = model

    def __call__(self, data: dict[str, Any]) -> Any:
        """A list, or a generator, which is streamed."""
        messages = [{"role": "user", "content": data["inputs"]}]
        limit = data.get("parameters", {}).get("max_new_tokens", 100)
        found = sentences(self.model.stream(messages, max_tokens=limit, temperature=0))
        if data.get("stream"):
            return ({"sentence": sentence} for sentence in found)
        return [{"sentences": list(found)}]
