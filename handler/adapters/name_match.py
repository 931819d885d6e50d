"""`NamePattern`: a regular expression of an adapter's configuration, which a stranger wrote, with a limit of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import regex

from handler.adapters.adapter import BadAdapter

# A name has at most some hundred characters; an honest expression takes microseconds.
_LIMIT_S = 0.5
_MAX_CHARS = 10_000


@dataclass(frozen=True, slots=True)
class NamePattern:
    """`field` of the configuration holds `expression`, which must match a whole name."""

    field: str
    expression: str

    def match(self, name: str) -> Any:
        """The match, or None. Raises BadAdapter if the expression is not valid, or takes too long."""
        if len(self.expression) > _MAX_CHARS:
            raise BadAdapter(f"{self.field} has a pattern of more than {_MAX_CHARS} characters")
        try:
            # Concurrent: the engine's loop goes on meanwhile.
            return regex.fullmatch(self.expression, name, timeout=_LIMIT_S, concurrent=True)
        except regex.error as exc:
            raise BadAdapter(f"{self.field} has a pattern that is not a regular expression: {exc}") from exc
        except TimeoutError as exc:
            raise BadAdapter(f"{self.field} has a pattern that takes too long to match") from exc
