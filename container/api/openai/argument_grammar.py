"""Grammars of one function's arguments, as JSON, Qwen3-Coder's XML or Python keywords: Lark in llguidance's dialect."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from container.api.enforceable_schema import FORMATS, enforceable
from container.api.openai.text_values import unheld_keyword
from container.api.openai.tool_parsers.xml_calls import PARAMETER, PARAMETER_END
from container.api.openai.tools import Function
from container.api.schema_types import property_of, resolved, types_of_schema
from container.errors import InvalidRequest
from handler.seam.protocol import JSON_WHITESPACE

_LAYOUT = {"whitespace_pattern": JSON_WHITESPACE}
_END = json.dumps(f"\n{PARAMETER_END}\n")
_DEFINITIONS = ("$defs", "definitions")
# These say what properties an object has, in other words than `properties`.
_DESCRIBING = frozenset(
    (
        *("$ref", "additionalProperties", "allOf", "anyOf", "oneOf", "patternProperties", "propertyNames"),
        *("required", "minProperties", "const", "enum", "unevaluatedProperties"),
    )
)

# Further rules, and an expression that uses them.
Arguments = tuple[list[str], str]
WriteArguments = Callable[[Function, str], Arguments]


def json_arguments(function: Function, name: str) -> Arguments:
    """One JSON object, as the rule `name`. Each schema has its own `%json`, so that `$ref` starts at its root."""
    return [f"{name}: {json_value(_object(function))}"], name


def json_value(schema: Any) -> str:
    """A value that fits the schema."""
    schema = enforceable(schema)
    formatted = {**schema, "x-guidance": _LAYOUT} if isinstance(schema, dict) else schema
    return "%json " + json.dumps(formatted, ensure_ascii=False)


def xml_arguments(function: Function, name: str) -> Arguments:
    """For each property `<parameter=key>`, the value on its own lines, `</parameter>`; in the schema's order."""
    if _is_open(function):
        return [f"{name}_any[lazy]: /(.|\\n)*/ {_END}"], f'("{PARAMETER}" /[^>\\n]{{1,64}}/ ">\\n" {name}_any)*'
    rules: list[str] = []
    items: list[str] = []
    for i, (key, required) in enumerate(_properties(function)):
        _check_text(function, key)
        opening = json.dumps(f"{PARAMETER}{key}>\n", ensure_ascii=False)
        rules += _XmlValue(function, key).rules(f"{name}_{i}", property_of(function.parameters, key))
        items.append(f"({opening} {name}_{i}){'' if required else '?'}")
    return rules, " ".join(items)


def python_arguments(function: Function, name: str) -> Arguments:
    """`key=value` for each property, separated by commas, in the schema's order; values are JSON.

    Raises InvalidRequest for a key that is not a Python identifier.
    """
    if _is_open(function):
        item = f'/[A-Za-z_][A-Za-z0-9_]{{0,63}}/ "=" {name}_any'
        return [f"{name}_any: {json_value({})}"], f'({item} (", " {item})*)?'
    rules: list[str] = []
    items: list[tuple[str, bool]] = []
    for i, (key, required) in enumerate(_properties(function)):
        if not key.isidentifier():
            raise InvalidRequest(
                f"`parameters` of {function.name} need Python identifiers as names for this model. Given: {key[:80]}",
                param="tools",
            )
        rules.append(f"{name}_{i}: {json_value(_part(function, key))}")
        items.append((f'"{key}=" {name}_{i}', required))
    return rules, _in_sequence(items)


def _in_sequence(items: list[tuple[str, bool]]) -> str:
    """The items that are present, with ", " between them; each is required or optional."""
    followers = [f'", " {item}' if required else f'(", " {item})?' for item, required in items]
    beginnings: list[str] = []
    for i, (item, required) in enumerate(items):
        beginnings.append(" ".join([item, *followers[i + 1 :]]))
        if required:
            return f"({' | '.join(beginnings)})"
    return f"({' | '.join(beginnings)})?" if beginnings else ""


class _XmlValue:
    """Rules for one value of XML arguments and the line of its closing tag."""

    def __init__(self, function: Function, key: str) -> None:
        self._function = function
        self._key = key

    def rules(self, name: str, schema: Any) -> list[str]:
        """The rule `name` and the rules it uses. Strings are text without quotes, other values are JSON."""
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
            if keyword in part and (keyword != "format" or part[keyword] in FORMATS):
                raise _unheld(self._function, self._key, keyword)
        low, high = part.get("minLength", 0), part.get("maxLength", "")
        return f"/(.|\\n){'*' if (low, high) == (0, '') else f'{{{low},{high}}}'}/"


def _check_text(function: Function, key: str) -> None:
    """Raises InvalidRequest for what a value written as text may break."""
    given = resolved(function.parameters, function.parameters)["properties"][key]
    keyword = unheld_keyword(given, function.parameters)
    if keyword is not None:
        raise _unheld(function, key, keyword)


def _unheld(function: Function, key: str, keyword: str) -> InvalidRequest:
    return InvalidRequest(
        f"`{keyword}` of {function.name}.{key[:80]} cannot be enforced in the form this model "
        "writes calls in; leave it out, or use neither `strict` nor a forced call",
        param="tools",
    )


def _is_open(function: Function) -> bool:
    """Whether any argument may be given."""
    schema = resolved(function.parameters, function.parameters)
    return not isinstance(schema.get("properties"), dict) and schema.get("additionalProperties") is not False


def _properties(function: Function) -> list[tuple[str, bool]]:
    """The arguments' names, and whether each is required."""
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
    """The function's schema as an object, even if it leaves that open; without parameters, the empty object.

    Raises InvalidRequest if no object fits.
    """
    parameters = function.parameters
    types = types_of_schema(resolved(parameters, parameters), parameters)
    if types and "object" not in types:
        raise InvalidRequest(
            f"`parameters` of {function.name} must be the schema of an object. Given: {', '.join(sorted(types))}",
            param="tools",
        )
    if not parameters.get("properties") and _DESCRIBING.isdisjoint(parameters):
        return {**parameters, "type": "object", "additionalProperties": False}
    return {**parameters, "type": "object"}
