"""How a client wants to see thoughts: as they come, each in one piece, in the text, or not at all."""

from __future__ import annotations

from collections.abc import Iterator

from container.api.openai.parts import Content, Part, Reasoning


class ReasoningView:
    """Passes on the parts of an answer.

    `drops`: no thoughts (vLLM's `include_reasoning` false). `holds`: each thought in one part, before what follows
    it (SGLang's `stream_reasoning` false). `joins`: thoughts are text, in lines of their own (its `separate_reasoning`
    false where they have no marks).
    """

    def __init__(self, *, drops: bool = False, holds: bool = False, joins: bool = False) -> None:
        self._drops = drops
        self._holds = holds and not joins
        self._joins = joins and not drops
        self._last: type[Part] | None = None
        self._held: list[str] = []

    def shown(self, parts: list[Part], *, over: bool) -> list[Part]:
        """What of the parts can be shown now; `over` says that no more will follow."""
        found = [each for part in parts for each in self._shown(self._joined(part))]
        return [*found, *self._release()] if over else found

    def _joined(self, part: Part) -> Part:
        if not self._joins or not isinstance(part, Reasoning | Content) or not part.text:
            return part
        last, self._last = self._last, type(part)
        return Content(part.text if last in (None, type(part)) else f"\n{part.text}")

    def _shown(self, part: Part) -> Iterator[Part]:
        if isinstance(part, Reasoning) and (self._drops or self._holds):
            self._held += [] if self._drops else [part.text]
            return
        if not isinstance(part, Content) or part.text:
            yield from self._release()
        yield part

    def _release(self) -> Iterator[Part]:
        text = "".join(self._held)
        self._held.clear()
        if text:
            yield Reasoning(text)
