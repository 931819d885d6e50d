"""How a client wants to see the thoughts that a splitter finds: not at all, or each in one piece."""

from __future__ import annotations

from typing import Protocol


class Splits(Protocol):
    """Splits an answer's thoughts from its content (container.api.openai.reasoning)."""

    @property
    def thinking(self) -> bool:
        """Whether the text so far ends inside a thought."""

    def push(self, text: str) -> tuple[str, str]:
        """The `(reasoning, content)` that `text` completes."""

    def flush(self) -> tuple[str, str]:
        """The text held back so far; call it at the end of the answer."""


class HeldReasoning:
    """Gives a thought when it is over (SGLang's `stream_reasoning` false), or never (`include_reasoning` false)."""

    def __init__(self, splitter: Splits, *, drops: bool) -> None:
        self._splitter = splitter
        self._drops = drops
        self._held: list[str] = []

    @property
    def thinking(self) -> bool:
        """As in `Splits`."""
        return self._splitter.thinking

    def push(self, text: str) -> tuple[str, str]:
        """As in `Splits`."""
        reasoning, content = self._splitter.push(text)
        self._held.append(reasoning)
        return ("" if self._splitter.thinking else self._release()), content

    def flush(self) -> tuple[str, str]:
        """As in `Splits`."""
        reasoning, content = self._splitter.flush()
        self._held.append(reasoning)
        return self._release(), content

    def _release(self) -> str:
        found = "" if self._drops else "".join(self._held)
        self._held.clear()
        return found
