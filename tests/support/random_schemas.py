"""Random JSON schemas of the kind people write for answers and functions, whose values are of bounded length."""

from __future__ import annotations

import random
from typing import Any

WORDS = ("city", "unit", "count", "name", "tags", "is_open", "note", "when", "price", "items")
PATTERNS = ("^[a-z]{1,6}$", "^[A-Z]{2}-[0-9]{3}$", "^(yes|no)$")


def random_object(rng: random.Random, depth: int = 2, *, patterns: bool = True) -> dict[str, Any]:
    """An object schema; `patterns` allows regular expressions for strings."""
    made = _Maker(rng, patterns)
    schema = made.object(depth)
    if made.references:
        schema["$defs"] = {"pair": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}}
    return schema


class _Maker:
    def __init__(self, rng: random.Random, patterns: bool) -> None:
        self.references = 0
        self._rng = rng
        self._patterns = patterns

    def object(self, depth: int) -> dict[str, Any]:
        rng = self._rng
        names = rng.sample(WORDS, rng.randint(1, 4))
        properties = {name: self.value(depth - 1) for name in names}
        required = [name for name in names if rng.random() < 0.7]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def value(self, depth: int) -> dict[str, Any]:
        rng = self._rng
        kinds = [self.string, self.string, self.integer, self.number, self.choice, self.flag, self.reference]
        if depth > 0:
            kinds += [self.array, self.nested, self.either]
        return rng.choice(kinds)(depth)

    def string(self, _depth: int) -> dict[str, Any]:
        rng = self._rng
        if self._patterns and rng.random() < 0.3:
            return {"type": "string", "pattern": rng.choice(PATTERNS)}
        low = rng.randint(0, 2)
        return {"type": "string", "minLength": low, "maxLength": low + rng.randint(0, 12)}

    def integer(self, _depth: int) -> dict[str, Any]:
        low = self._rng.randint(-50, 50)
        return {"type": "integer", "minimum": low, "maximum": low + self._rng.randint(0, 2000)}

    def number(self, _depth: int) -> dict[str, Any]:
        # Without a step a number may have digits without end, and a model that likes them never stops.
        return {"type": "number", "minimum": 0, "maximum": self._rng.choice([1, 99.5]), "multipleOf": 0.25}

    def choice(self, _depth: int) -> dict[str, Any]:
        return {"enum": self._rng.sample(["a", "b c", 'd"e', "é", 1, 2.5, None, True], self._rng.randint(1, 4))}

    def flag(self, _depth: int) -> dict[str, Any]:
        return {"type": self._rng.choice(["boolean", "null"])}

    def reference(self, _depth: int) -> dict[str, Any]:
        self.references += 1
        return {"$ref": "#/$defs/pair"}

    def array(self, depth: int) -> dict[str, Any]:
        low = self._rng.randint(0, 2)
        return {"type": "array", "items": self.value(depth - 1), "minItems": low, "maxItems": low + 2}

    def nested(self, depth: int) -> dict[str, Any]:
        return self.object(depth)

    def either(self, depth: int) -> dict[str, Any]:
        return {"anyOf": [self.value(depth - 1), {"type": "null"}]}
