"""Frames that are encoded once but for their text are those that would be encoded whole."""

from __future__ import annotations

from typing import Any

import pytest

from container.api.openai.answer_types import ChatChunk, ChatDelta, ChunkChoice, TextChoice, TextCompletion
from container.web import sse

HEAD = {"id": 'quote" and \\ and é', "created": 1, "model": "m\n", "system_fingerprint": "f"}


def chat(text: str) -> ChatChunk:
    choice = ChunkChoice(index=3, delta=ChatDelta(content=text), logprobs=None, finish_reason=None)
    return ChatChunk(**HEAD, choices=[choice], usage=None)  # type: ignore[arg-type]


def completion(text: str) -> TextCompletion:
    choice = TextChoice(index=0, text=text, logprobs=None, finish_reason=None)
    return TextCompletion(**HEAD, choices=[choice])  # type: ignore[arg-type]


@pytest.mark.parametrize("event", [chat, completion])
@pytest.mark.parametrize(
    "text", ["a", " the", '"', "\\", "\n\r\t\x00\x7f", "😀é\u2028", '{"choices":[]}', "data: [DONE]\n\n"]
)
def test_a_text_frame_is_the_frame_of_its_event(event: Any, text: str) -> None:
    frames = sse.TextFrames(event)
    assert frames.frame(text) == sse.frame(event(text))
    assert frames.frame("again") == sse.frame(event("again"))
