"""Arguments between tags, `<parameter=key>value</parameter>`, read as JSON while they stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from container.api.openai.tool_parsers.form import Tags
from container.api.openai.tool_parsers.json_value import ValueScanner
from container.api.openai.tool_parsers.marker import Marker
from container.api.openai.tool_parsers.nested_values import nested_as_json
from container.api.openai.tool_parsers.typed_value import as_json, escaped
from container.api.schema.schema_types import property_of, types_of

# What stands between the tags of a key; longer text is all key.
_MAX_KEY_CHARS = 256
_CDATA = ("<![CDATA[", "]]>")


class TaggedArguments:
    """Ends at the first text that is no argument. Values have no quotes, so their types come from the schema.

    Each state takes the waiting text and returns the rest of it, or None if it needs more.
    """

    def __init__(self, tags: Tags, schema: dict[str, Any]) -> None:
        self._tags = tags
        self._schema = schema
        self._waiting = ""
        self._written: list[str] = []
        self._num_arguments = 0
        self._value: _Value | None = None
        self._scanner: ValueScanner | None = None
        self._state: Callable[[str], str | None] = self._between
        self._done = False

    def push(self, text: str) -> tuple[str, str | None]:
        """The JSON that `text` completes, and the text after the arguments; None while more may come."""
        rest: str | None = self._waiting + text
        self._waiting = ""
        while rest and not self._done:
            rest = self._state(rest)
        written, self._written = "".join(self._written), []
        return written, (rest or "") if self._done else None

    def flush(self) -> str:
        """The rest of the JSON, when the answer ends inside: it stays cut."""
        return self._value.flush() if self._value is not None else ""

    def _between(self, text: str) -> str | None:
        begun = text.lstrip()
        opening = self._tags.key_open
        # Where the tags of arguments have no name of their own, a slash tells the end of the call.
        named = not self._tags.nested
        if begun.startswith(opening) and (named or begun[len(opening) :][:1] not in {"", "/"}):
            self._state = self._key
            return begun[len(opening) :] or self._wait("")
        if opening.startswith(begun):
            return self._wait(begun)
        if begun[0] == "{" and not self._num_arguments:
            self._scanner, self._state = ValueScanner(), self._object
            return begun
        self._done = True
        self._written.append("}" if self._num_arguments else "{}")
        return begun

    def _object(self, text: str) -> str | None:
        """All arguments as one JSON object, which some models write instead."""
        scanner = self._scanner or ValueScanner()
        end = scanner.scan(text, 0)
        self._written.append(text[:end])
        self._done = scanner.done
        return text[end:] if scanner.done else None

    def _key(self, text: str) -> str | None:
        head, end, rest = text.partition(self._tags.value_open)
        longest = _MAX_KEY_CHARS + len(self._tags.value_open)
        if not end and len(text) <= longest:
            return self._wait(text)
        if len(head) > _MAX_KEY_CHARS:
            head, rest = text[:_MAX_KEY_CHARS], text[_MAX_KEY_CHARS:]
        key, closed, attribute = head.partition(self._tags.key_close) if self._tags.key_close else (head, "", "")
        key = key.strip()
        self._written.append(f"{', ' if self._num_arguments else '{'}{json.dumps(key, ensure_ascii=False)}: ")
        self._num_arguments += 1
        schema = property_of(self._schema, key) if self._tags.nested else True
        self._value = _Value(self._tags, key, self._types(key, attribute if closed else ""), schema)
        self._state = self._in_value
        return rest or self._wait("")

    def _types(self, key: str, attribute: str) -> frozenset[str]:
        """The types of the schema, narrowed by what the model says of the value."""
        types = types_of(self._schema, key)
        if not self._tags.text or not attribute.strip():
            return types
        says_text = "true" in attribute or "string<" in attribute or '"string"' in attribute
        if says_text:
            return frozenset(["string"]) if not types or "string" in types else types
        return types - {"string"} or types

    def _in_value(self, text: str) -> str | None:
        value = self._value
        if value is None:
            return text
        written, rest = value.push(text)
        self._written.append(written)
        if rest is None:
            return None
        self._value, self._state = None, self._between
        return rest or self._wait("")

    def _wait(self, text: str) -> str | None:
        self._waiting = text
        return None


class _Value:
    """One value as JSON. A string is emitted as it comes, any other value when it is complete."""

    def __init__(self, tags: Tags, key: str, types: frozenset[str], schema: Any) -> None:
        self._tags = tags
        self._types = types
        self._schema = schema
        self._end = Marker(tags.value_close.replace("{key}", key))
        self._streams = types == {"string"} and not tags.cdata
        self._begun = False
        self._held: list[str] = []

    def push(self, text: str) -> tuple[str, str | None]:
        """The JSON that `text` completes, and the text after the value; None while the value goes on."""
        shown, rest = self._end.push(text)
        self._held.append(shown)
        if self._streams:
            return self._text(ends=rest is not None), rest
        return ("" if rest is None else self._whole("".join(self._held))), rest

    def _whole(self, text: str) -> str:
        if self._tags.framed:
            text = text.removeprefix("\n").removesuffix("\n")
        if self._tags.cdata and text.strip().startswith(_CDATA[0]) and text.strip().endswith(_CDATA[1]):
            text = text.strip()[len(_CDATA[0]) : -len(_CDATA[1])]
        if self._types == {"string"}:
            return json.dumps(text, ensure_ascii=False)
        if self._tags.nested and text.lstrip().startswith(self._tags.key_open):
            return nested_as_json(text, self._tags, self._schema)
        return as_json(text, self._types)

    def _text(self, *, ends: bool) -> str:
        """The text held, as a piece of a JSON string. A line break that may belong to the closing tag waits."""
        held = "".join(self._held)
        if not held and not ends:
            return ""
        opening = "" if self._begun else '"'
        framed = self._tags.framed
        if not self._begun:
            self._begun, held = True, held.removeprefix("\n") if framed else held
        complete = held.removesuffix("\n") if framed else held
        self._held = [] if ends else [held[len(complete) :]]
        return opening + escaped(complete) + ('"' if ends else "")

    def flush(self) -> str:
        """The rest, when the answer ends inside the value."""
        if not self._streams:
            return ""
        self._held.append(self._end.flush())
        return self._text(ends=False)
