"""What is wrong with a grammar, in terms of what the client sent: llguidance speaks of its own source."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from llguidance import LLMatcher

from handler.seam.errors import one_line
from handler.seam.protocol import Grammar, GrammarKind

_AT_LINE = re.compile(r"at (?P<line>\d+)\(\d+\): (?:failed to compile JSON schema: )?")
# The excerpt of the source that ends an error.
_EXCERPT = re.compile(r"\n *\d+ \| .*", re.DOTALL)
_NAMED = ("$defs", "definitions", "properties", "patternProperties")
_SINGLE = ("items", "additionalProperties")
# The search for the part at fault ends here; a schema may have thousands of parts.
_MAX_PARTS = 100


def sentence(grammar: Grammar, error: str) -> str:
    """The matcher's `error`, with the place in the request as far as the grammar names places."""
    found = _AT_LINE.match(error)
    rule = grammar.source.splitlines()[int(found["line"]) - 1] if found else ""
    reason = error[found.end() :] if found else error
    place = _place(grammar, rule)
    schema = _schema(grammar, rule)
    inside = f"{place}{_path_to_fault(schema)}" if place and isinstance(schema, dict) else place
    return f"{_noun(inside)} is not valid: {_reason(_EXCERPT.sub('', reason))}"


def subject(grammar: Grammar) -> str:
    """What the whole grammar was made of, as the noun of a sentence."""
    return _noun(grammar.places.get("", ""))


def _noun(place: str) -> str:
    return f"`{place}`" if place else "grammar"


def _place(grammar: Grammar, rule: str) -> str:
    """The place of a rule: that of its name, or of the name it begins with."""
    name = re.split(r"[\[:]", rule, maxsplit=1)[0]
    while name and name not in grammar.places:
        name = name.rpartition("_")[0]
    return grammar.places.get(name, "")


def _schema(grammar: Grammar, rule: str) -> Any:
    text = grammar.source if grammar.kind is GrammarKind.JSON_SCHEMA else rule.partition("%json ")[2]
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None


def _path_to_fault(schema: dict[str, Any]) -> str:
    """The keys that lead to the smallest part with the schema's own error; empty if no part has it alone."""
    error, path, part = _error(schema), "", schema
    definitions = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    left = _MAX_PARTS
    while error:
        for key, inner in _parts(part):
            left -= 1
            if left > 0 and _error(definitions | inner) == error:
                path, part = f"{path}.{key}", inner
                break
        else:
            break
    return path


def _parts(part: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for key in _NAMED:
        inside = part.get(key)
        if isinstance(inside, dict):
            yield from ((f"{key}.{name[:40]}", each) for name, each in inside.items() if isinstance(each, dict))
    yield from ((key, part[key]) for key in _SINGLE if isinstance(part.get(key), dict))


def _error(schema: Any) -> str:
    return str(LLMatcher.validate_grammar(json.dumps({"grammars": [{"json_schema": schema}]})))


def _reason(error: str) -> str:
    if "coerce_one_of" in error:
        return "the branches of `oneOf` overlap, or cannot be shown not to; use `anyOf`, or a constant in each"
    return one_line(error)
