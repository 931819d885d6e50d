"""The arguments of one function as Lark in llguidance's dialect: JSON, Qwen3-Coder's XML, or Python's keywords."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from container.api.closed_schema import closed
from container.api.openai.schema_types import property_of, resolved, types_of_schema
from container.api.openai.tool_parsers.xml_calls import PARAMETER, PARAMETER_END
from container.api.openai.tools import Function
from container.errors import InvalidRequest
from handler.seam.protocol import JSON_WHITESPACE

_LAYOUT = {"whitespace_pattern": JSON_WHITESPACE}
_END = json.dumps(f"\n{PARAMETER_END}\n")
_DEFINITIONS = ("$defs", "definitions")

# Rules that are needed besides the expression, and the expression itself.
Arguments = tuple[list[str], str]
WriteArguments = Callable[[Function, str], Arguments]


def json_arguments(function: Function, name: str) -> Arguments:
    """One JSON object. `name` is the name of the rule. Each schema has a `%json` of its own, so that `$ref` finds its
    root.
    """
    return [f"{name}: {json_value(_object(function))}"], name


def json_value(schema: Any) -> str:
    """A value after a schema."""
    schema = closed(schema)
    laid_out = {**schema, "x-guidance": _LAYOUT} if isinstance(schema, dict) else schema
    return "%json " + json.dumps(laid_out, ensure_ascii=False)


def xml_arguments(function: Function, name: str) -> Arguments:
    """`<parameter=key>`, the value on lines of its own and `</parameter>` for each property, in the schema's order."""
    if _is_open(function):
        return [f"{name}_any[lazy]: /(.|\\n)*/ {_END}"], f'("{PARAMETER}" /[^>\\n]{{1,64}}/ ">\\n" {name}_any)*'
    rules: list[str] = []
    items: list[str] = []
    for i, (key, required) in enumerate(_properties(function)):
        opening = json.dumps(f"{PARAMETER}{key}>\n", ensure_ascii=False)
        rules += _XmlValue(function, key).rules(f"{name}_{i}", property_of(function.parameters, key))
        items.append(f"({opening} {name}_{i}){'' if required else '?'}")
    return rules, " ".join(items)


def python_arguments(function: Function, name: str) -> Arguments:
    """`key=value` for each property, in the order of the schema, separated by commas; the values are JSON."""
    if _is_open(function):
        item = f'/[A-Za-z_][A-Za-z0-9_]{{0,63}}/ "=" {name}_any'
        return [f"{name}_any: {json_value({})}"], f'({item} (", " {item})*)?'
    rules: list[str] = []
    items: list[tuple[str, bool]] = []
    for i, (key, required) in enumerate(_properties(function)):
        if not key.isidentifier():
            raise InvalidRequest(
                f"`parameters` of {function.name} must have names of Python for this model. Given: {key[:80]}",
                param="tools",
            )
        rules.append(f"{name}_{i}: {json_value(_part(function, key))}")
        items.append((f'"{key}=" {name}_{i}', required))
    return rules, _in_sequence(items)


def _in_sequence(items: list[tuple[str, bool]]) -> str:
    """Items with ", " between those that are there; each is required or not."""
    followers = [f'", " {item}' if required else f'(", " {item})?' for item, required in items]
    beginnings: list[str] = []
    for i, (item, required) in enumerate(items):
        beginnings.append(" ".join([item, *followers[i + 1 :]]))
        if required:
            return f"({' | '.join(beginnings)})"
    return f"({' | '.join(beginnings)})?" if beginnings else ""


class _XmlValue:
    """One value of XML arguments and the line of its closing tag, as rules."""

    def __init__(self, function: Function, key: str) -> None:
        self._function = function
        self._key = key

    def rules(self, name: str, schema: Any) -> list[str]:
        """The rule `name` and what it needs. Strings are text without quotes, all else is JSON."""
        part = resolved(schema, self._function.parameters)
        part = part if isinstance(part, dict) else {}
        for several in ("anyOf", "oneOf"):
            if isinstance(part.get(several), list):
                names = [f"{name}_{i}" for i in range(len(part[several]))]
                found = [self.rules(each, branch) for each, branch in zip(names, part[several], strict=True)]
                return [f"{name}: {' | '.join(names)}", *(rule for rules in found for rule in rules)]
        if "enum" in part or "const" in part:
            values = part.get("enum", [part.get("const")])
            texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
            return [f"{name}: ({' | '.join(json.dumps(text, ensure_ascii=False) for text in texts)}) {_END}"]
        types = types_of_schema(part, self._function.parameters)
        if types and "string" not in types:
            return [f"{name}: {json_value(_with_definitions(self._function, part))} {_END}"]
        return [f"{name}[lazy]: {self._text(part)} {_END}"]

    def _text(self, part: dict[str, Any]) -> str:
        for keyword in ("pattern", "format"):
            if keyword in part:
                raise InvalidRequest(
                    f"`{keyword}` of {self._function.name}.{self._key[:80]} cannot be enforced in the form this model "
                    "writes calls in; leave it out or do without `strict` and a forced call",
                    param="tools",
                )
        low, high = part.get("minLength", 0), part.get("maxLength", "")
        return f"/(.|\\n){'*' if (low, high) == (0, '') else f'{{{low},{high}}}'}/"


def _is_open(function: Function) -> bool:
    """Whether any argument may be given."""
    schema = resolved(function.parameters, function.parameters)
    return not isinstance(schema.get("properties"), dict) and schema.get("additionalProperties") is not False


def _properties(function: Function) -> list[tuple[str, bool]]:
    """Names of the arguments, and whether they must be there."""
    schema = resolved(function.parameters, function.parameters)
    known = schema.get("properties")
    required = schema.get("required") or []
    return [(key, key in required) for key in known] if isinstance(known, dict) else []


def _part(function: Function, key: str) -> dict[str, Any]:
    """The schema of one argument, with the definitions its references need."""
    part = property_of(function.parameters, key)
    return _with_definitions(function, part if isinstance(part, dict) else {})


def _with_definitions(function: Function, part: dict[str, Any]) -> dict[str, Any]:
    return {**{name: function.parameters[name] for name in _DEFINITIONS if name in function.parameters}, **part}


def _object(function: Function) -> dict[str, Any]:
    """Arguments are an object, whatever else the schema leaves open; a function without parameters takes none."""
    parameters = function.parameters
    if not parameters.get("properties") and "additionalProperties" not in parameters and "$ref" not in parameters:
        return {**parameters, "type": "object", "additionalProperties": False}
    return {"type": "object", **parameters}
