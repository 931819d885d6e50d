"""Ends a completion at the first of several strings, wherever token boundaries fall."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class StopStrings:
    """Finds the first stop string in text that arrives in pieces, and holds back text that may begin one.

    The first match is the one that is complete first, as if the text were checked after every character. Among stop
    strings complete at the same character the longest wins. So the result depends on the text alone, not on how it was
    cut into pushes. `keep` keeps the stop string at the end of the output (TGI); otherwise the output ends before it
    (OpenAI).

    Algorithm: Aho-Corasick. The state is the longest suffix of the text that begins a stop string, which is exactly the
    text to hold back. Time is linear in the text, whatever the stop strings.
    """

    def __init__(self, stops: Sequence[str], *, keep: bool) -> None:
        """Raises `ValueError` for an empty stop string."""
        if "" in stops:
            raise ValueError("a stop string must not be empty")
        self.matched: str | None = None
        self._keep = keep
        self._held = ""
        self._state = 0
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._fallback = [0]
        self._complete: list[str | None] = [None]
        for stop in stops:
            self._add(stop)
        self._link()

    def push(self, text: str) -> str:
        """The text that can be output once `text` is appended to what was pushed before."""
        if self.matched is not None:
            return ""
        if len(self._next) == 1:
            return text
        state = self._state
        for index, character in enumerate(text):
            while state and character not in self._next[state]:
                state = self._fallback[state]
            state = self._next[state].get(character, 0)
            stop = self._complete[state]
            if stop is not None:
                return self._end(self._held + text[: index + 1], stop)
        self._state = state
        waiting = self._held + text
        safe = len(waiting) - self._depth[state]
        self._held = waiting[safe:]
        return waiting[:safe]

    def flush(self) -> str:
        """The text still held back at the end of the text; empty after a match."""
        held, self._held = self._held, ""
        self._state = 0
        return held

    def _end(self, waiting: str, stop: str) -> str:
        self.matched = stop
        self._held = ""
        return waiting if self._keep else waiting[: len(waiting) - len(stop)]

    def _add(self, stop: str) -> None:
        state = 0
        for character in stop:
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._fallback.append(0)
                self._complete.append(None)
            state = self._next[state][character]
        self._complete[state] = stop

    def _link(self) -> None:
        """Set the fallbacks: the state of the longest proper suffix. Breadth first, so shorter ones are known."""
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            for character, child in self._next[state].items():
                fallback = self._fallback[state]
                while fallback and character not in self._next[fallback]:
                    fallback = self._fallback[fallback]
                self._fallback[child] = self._next[fallback].get(character, 0)
                self._complete[child] = self._complete[child] or self._complete[self._fallback[child]]
                queue.append(child)
