"""A question about a text, whatever the dialect that asked it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["predicate", "choice", "score"]


@dataclass(frozen=True, slots=True)
class Option:
    """One answer that is allowed. A predicate's two have no name."""

    name: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """`options` of a predicate are true and false, of a score its levels from the lowest."""

    kind: Kind
    instructions: str
    options: tuple[Option, ...]
