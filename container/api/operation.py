"""The description of a route, written at the route itself; the OpenAPI document is built from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

View = TypeVar("View", bound=Callable[..., Any])

_ATTRIBUTE = "__operation__"


@dataclass(frozen=True, slots=True)
class Form:
    """One form of a body: the type that reads it, and a JSON schema for the rules between its fields."""

    kind: Any
    rule: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One route, for people and programs. Types are the msgspec types that read and write the bodies.

    `bodies` are the forms a body may have, `parts` further types that their schemas reference; unless it `needs_body`
    there may be none. `query` and `headers` have the JSON schema of each such parameter, none of them required.
    `answer` is a whole answer of status 200, None for an empty one. `event` is one event of a streamed answer;
    `last_event`, if set, is the text that ends the stream. `error` is the body of the statuses in `errors`; those in
    `text_errors` may also come as text/plain. `answer`, `event` and `error` may be tuples of types. `keyed` routes
    require the API key. The files of a page are not `listed` in the document.
    """

    tag: str
    summary: str
    bodies: tuple[Form, ...] = ()
    parts: tuple[Any, ...] = ()
    needs_body: bool = True
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, Any] = field(default_factory=dict)
    answer: Any = None
    answer_media_type: str = "application/json"
    event: Any = None
    last_event: str | None = None
    error: Any = None
    errors: tuple[int, ...] = ()
    text_errors: tuple[int, ...] = ()
    keyed: bool = True
    listed: bool = True
    example: Any = None

    @property
    def generates(self) -> bool:
        """True if the route runs the model: no other route can time out (504)."""
        return 504 in self.errors


def describe(operation: Operation) -> Callable[[View], View]:
    """Attach an `Operation` to a view function."""

    def attach(view: View) -> View:
        setattr(view, _ATTRIBUTE, operation)
        return view

    return attach


def operation_of(view: Callable[..., Any] | None) -> Operation | None:
    """The operation of a view function, None if it was not described."""
    found: Operation | None = getattr(view, _ATTRIBUTE, None)
    return found
