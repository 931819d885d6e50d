"""How a client wants to see thoughts: as they come, each in one piece, or not at all."""

from __future__ import annotations


class ReasoningView:
    """Passes on the text of thoughts.

    `drops`: none of it (vLLM's `include_reasoning` false). `holds`: each thought when it is over (SGLang's
    `stream_reasoning` false).
    """

    def __init__(self, *, drops: bool = False, holds: bool = False) -> None:
        self._drops = drops
        self._holds = holds
        self._held: list[str] = []

    def show(self, text: str, *, thinking: bool) -> str:
        """What of the thought can be shown now; `thinking` says whether more of it may follow."""
        if self._drops or not self._holds:
            return "" if self._drops else text
        self._held.append(text)
        if thinking:
            return ""
        text = "".join(self._held)
        self._held.clear()
        return text
