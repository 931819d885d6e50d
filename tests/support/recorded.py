"""Conversations recorded in the real chat templates of families: tests/data/answers, one file for each template."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[1] / "data"
# Between these signs a string of the arguments spells the family's own marks, as text.
_SPELT = re.compile("(«[^»]*»)")

SYSTEM = {"role": "system", "content": "You book trips."}
USER = {"role": "user", "content": "Is it warm in Paris? If so, book two nights."}


def _parameters(**properties: Any) -> dict[str, Any]:
    described = {key: {"description": key, **schema} for key, schema in properties.items()}
    return {"type": "object", "properties": described, "required": [next(iter(properties))]}


_TEXT, _NUMBER, _FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
_TEXTS = {"type": "array", "items": {"type": "string", "description": "one"}}
_MAYBE = {"type": ["string", "null"]}
SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": _parameters(city=_TEXT, days=_NUMBER),
    "book": _parameters(
        name=_TEXT, rate={"type": "number"}, late=_FLAG, coupon=_MAYBE, tags=_TEXTS,
        guest=_parameters(age=_NUMBER, langs=_TEXTS, vip=_FLAG, room=_MAYBE), note=_TEXT,
    ),
}  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": parameters}}
    for name, parameters in SCHEMAS.items()
]

_PARIS = {"city": "Paris", "days": 2}
_ROME = {"city": "Rome (IT)\n"}
_BOOK: dict[str, Any] = {
    "name": "O\"Hara <b>&</b>\n\\ 'Zoë', {x: [1]}",
    "rate": 99.5,
    "late": True,
    "coupon": None,
    "tags": ["a", "<i>"],
    "guest": {"age": 41, "langs": ["fr", "en"], "vip": False, "room": None},
}


@dataclass(frozen=True)
class Answer:
    """One answer as the model writes it, and what the client gets.

    `history` is how the template writes it later, where that is not the same; `why` says what differs.
    """

    text: str
    history: str
    why: str
    reasoning: str
    content: str
    calls: list[tuple[str, dict[str, Any]]]

    @property
    def pieces(self) -> list[str]:
        """The text as tokens: a mark is one, but letters where a string of the arguments spells it."""
        parts = _SPELT.split(self.text)
        return [piece for i, part in enumerate(parts) for piece in (list(part) if i % 2 else [part])]


@dataclass(frozen=True)
class Recorded:
    """One file: three answers in one template, the marks that its tokenizer has as tokens, the template's options.

    `unforced` says how a forced call differs from what the model writes.
    """

    name: str
    models: str
    template: str
    form: str
    marks: list[str]
    options: dict[str, Any]
    unforced: str
    answers: list[Answer]

    @property
    def source(self) -> str:
        """The chat template."""
        return (DATA / "chat_templates" / f"{self.template}.jinja").read_text()

    def messages(self, num_answers: int) -> list[dict[str, Any]]:
        """The conversation up to and with so many answers, and the results of their calls."""
        found: list[dict[str, Any]] = [SYSTEM, USER]
        number = 0
        for answer in self.answers[:num_answers]:
            calls = [_call(number + i, *call) for i, call in enumerate(answer.calls)]
            number += len(calls)
            thought = {"reasoning_content": answer.reasoning} if answer.reasoning else {}
            called = {"tool_calls": calls} if calls else {}
            found.append({"role": "assistant", "content": answer.content, **thought, **called})
            found += [{"role": "tool", "tool_call_id": call["id"], "content": "21 degrees"} for call in calls]
        return found


def _call(number: int, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"call0000{number}", "type": "function", "function": function}


def recorded() -> Iterator[Recorded]:
    """All of them, in the order of their names."""
    for path in sorted((DATA / "answers").glob("*.toml")):
        yield _read(path)


def _read(path: Path) -> Recorded:
    """`thinks`, `speaks`: the answers have thoughts, and text beside calls. `lacks` are values that are not there."""
    found = tomllib.loads(path.read_text())
    lacks = found.get("lacks", [])
    book = {key: value for key, value in _BOOK.items() if key not in lacks}
    book["guest"] = {key: value for key, value in _BOOK["guest"].items() if f"guest.{key}" not in lacks}
    book["note"] = f"«{found['spelt']}»"
    calls = [[("weather", _PARIS)], [("book", book), ("weather", _ROME)], []]
    thoughts = ("First the weather.", "Warm.\nSo I book.", "All done.") if found["thinks"] else ("", "", "")
    texts = ("I look." if found["speaks"] else "", "", "It is warm, 21 degrees.\n\nBooked <b>two</b> nights.")
    answers = [
        Answer(each["text"], each.get("history", each["text"]), each.get("why", ""), *said)
        for each, *said in zip(found["answer"], thoughts, texts, calls, strict=True)
    ]
    named = {key: found[key] for key in ("models", "template", "form", "marks")}
    return Recorded(
        path.stem, **named, options=found.get("options", {}), unforced=found.get("unforced", ""), answers=answers
    )
