"""Grammars of one function's arguments in each way to write them: Lark in llguidance's dialect."""

from __future__ import annotations

import json
from typing import Any, Protocol

import msgspec

from container.api.openai.text_values import unheld_keyword
from container.api.openai.tool_parsers.form import Arguments, Form, Tags
from container.api.openai.tools import Function
from container.api.schema.enforceable_schema import FORMATS, enforceable
from container.api.schema.schema_types import property_of, resolved, types_of, types_of_schema
from container.errors import InvalidRequest
from handler.seam.protocol import JSON_WHITESPACE, Grammar, GrammarKind

_LAYOUT = {"whitespace_pattern": JSON_WHITESPACE}
_DEFINITIONS = ("$defs", "definitions")
# These say what properties an object has, in other words than `properties`.
_DESCRIBING = frozenset(
    (
        *("$ref", "additionalProperties", "allOf", "anyOf", "oneOf", "patternProperties", "propertyNames"),
        *("required", "minProperties", "const", "enum", "unevaluatedProperties"),
    )
)

# What else than its type may keep a value from fitting a schema.
_UNCLEAR = frozenset(("allOf", "not", "if", "$dynamicRef"))

# Further rules, and an expression that uses them.
Rules = tuple[list[str], str]


class Literals(Protocol):
    """Text as Lark, with marks by token id."""

    def literal(self, text: str) -> str:
        """An expression for the text."""

    def has_control(self, text: str) -> bool:
        """Whether the text holds a control token, which free text cannot."""


def arguments_of(function: Function, name: str, form: Form, literals: Literals) -> Rules:
    """The arguments as the form writes them, as rules whose names begin with `name`."""
    if form.arguments is Arguments.PYTHON:
        return _python_arguments(function, name)
    if form.arguments is Arguments.QUOTED:
        return _quoted_arguments(function, name, form.quotes, literals)
    if form.tags is not None:
        return _tagged_arguments(function, name, form.tags, literals)
    return json_arguments(function, name)


def json_arguments(function: Function, name: str) -> Rules:
    """One JSON object, as the rule `name`. Each schema has its own `%json`, so that `$ref` starts at its root."""
    return [f"{name}: {json_value(_object(function))}"], name


def json_value(schema: Any) -> str:
    """A value that fits the schema."""
    schema = enforceable(schema)
    formatted = {**schema, "x-guidance": _LAYOUT} if isinstance(schema, dict) else schema
    return "%json " + json.dumps(formatted, ensure_ascii=False)


def answer_value(answer: Grammar) -> str:
    """An answer that a constraint allows. Its rules are apart from those around it."""
    match answer.kind:
        case GrammarKind.JSON_SCHEMA:
            return json_value(msgspec.json.decode(answer.source))
        case GrammarKind.REGEX:
            return f"%lark {{\nstart: /{_in_slashes(answer.source)}/\n}}"
        case GrammarKind.LARK:
            return f"%lark {{\n{answer.source}\n}}"


def _in_slashes(pattern: str) -> str:
    """A regular expression as Lark writes it, between slashes and on one line."""
    found = ""
    escaped = False
    for character in pattern:
        found += "\\/" if character == "/" and not escaped else "\\n" if character == "\n" else character
        escaped = character == "\\" and not escaped
    return found


def _tagged_arguments(function: Function, name: str, tags: Tags, literals: Literals) -> Rules:
    """For each property its tags around the value, in the schema's order."""
    frame = "\n" if tags.framed else ""
    if _is_open(function) and tags.nested:
        return json_arguments(function, name)
    if _is_open(function):
        key = f'{literals.literal(tags.key_open)} /[^<>\\n"]{{1,64}}/'
        opening = literals.literal(tags.key_close + tags.text + tags.value_open + frame)
        end = frame + tags.value_close + tags.gap
        return _text(f"{name}_any", "/(.|\\n)*/", end, literals), f"({key} {opening} {name}_any)*"
    rules: list[str] = []
    items: list[str] = []
    for i, (key, required) in enumerate(_properties(function)):
        _check_text(function, key)
        end = frame + tags.value_close.replace("{key}", key) + tags.gap
        value = _Value(function, key, end, literals)
        kinds: list[str] = []
        for attribute, schema in value.kinds(tags, property_of(function.parameters, key)):
            opening = literals.literal(f"{tags.key_open}{key}{tags.key_close}{attribute}{tags.value_open}{frame}")
            rule = f"{name}_{i}_{len(kinds)}"
            rules += value.rules(rule, schema)
            kinds.append(f"{opening} {rule}")
        items.append(f"({' | '.join(kinds)}){'' if required else '?'}")
    return rules, " ".join(items)


def _quoted_arguments(function: Function, name: str, quotes: str, literals: Literals) -> Rules:
    """`{key:value}` for each property, separated by commas, in the schema's order; strings stand in quotes."""
    opening = literals.literal(quotes)
    if _is_open(function):
        rules = _text(f"{name}_any", "/(.|\\n)*/", quotes, literals)
        item = f'/[A-Za-z_][A-Za-z0-9_]{{0,63}}/ ":" {opening} {name}_any'
        return rules, f'"{{" ({item} ("," {item})*)? "}}"'
    found: list[str] = []
    items: list[tuple[str, bool]] = []
    for i, (key, required) in enumerate(_properties(function)):
        value = _Value(function, key, quotes, literals)
        schema = property_of(function.parameters, key)
        if value.is_text:
            _check_text(function, key)
            found += value.rules(f"{name}_{i}", schema)
        else:
            found.append(f"{name}_{i}: {json_value(_part(function, key))}")
        before = f"{opening} " if value.is_text else ""
        items.append((f"{literals.literal(f'{key}:')} {before}{name}_{i}", required))
    return found, f'"{{" {_in_sequence(items, ",")} "}}"'


def _text(name: str, text: str, end: str, literals: Literals) -> list[str]:
    """The rule `name`: free text up to `end`. Text cannot hold a control token, so it needs no search for one."""
    if literals.has_control(end):
        return [f"{name}: {name.upper()}_TEXT {literals.literal(end)}", f"{name.upper()}_TEXT: {text}"]
    return [f"{name}[lazy]: {text} {json.dumps(end, ensure_ascii=False)}"]


def _python_arguments(function: Function, name: str) -> Rules:
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
        part = _part(function, key)
        written = [json_value(part), *_python_words(part, function.parameters)]
        rules.append(f"{name}_{i}: {' | '.join(written)}")
        items.append((f'"{key}=" {name}_{i}', required))
    return rules, _in_sequence(items, ", ")


def _in_sequence(items: list[tuple[str, bool]], comma: str) -> str:
    """The items that are present, with `comma` between them; each is required or optional."""
    followers = [f'"{comma}" {item}' if required else f'("{comma}" {item})?' for item, required in items]
    beginnings: list[str] = []
    for i, (item, required) in enumerate(items):
        beginnings.append(" ".join([item, *followers[i + 1 :]]))
        if required:
            return f"({' | '.join(beginnings)})"
    return f"({' | '.join(beginnings)})?" if beginnings else ""


def _python_words(schema: Any, root: dict[str, Any]) -> list[str]:
    """Python's words for the values that the schema plainly allows, in place of JSON's."""
    return [f'"{value}"' for value in (True, False, None) if _allows(schema, value, root, {})]


def _allows(schema: Any, value: bool | None, root: dict[str, Any], found: dict[int, bool]) -> bool:
    """Whether a schema within `root` names the value's type and allows the value. Each part is read once."""
    part = resolved(schema, root)
    if not isinstance(part, dict) or not _UNCLEAR.isdisjoint(part):
        return False
    if id(part) not in found:
        found[id(part)] = False
        listed = any(each is value for each in part.get("enum", [value])) and part.get("const", value) is value
        is_named = _type_name(value) in types_of_schema(part, root)
        found[id(part)] = listed and is_named and _fits_branches(part, value, root, found)
    return found[id(part)]


def _fits_branches(part: dict[str, Any], value: bool | None, root: dict[str, Any], found: dict[int, bool]) -> bool:
    """Whether a branch of `anyOf` allows the value, and the only one of `oneOf` that may."""
    if "anyOf" in part and not any(_allows(each, value, root, found) for each in part["anyOf"]):
        return False
    if "oneOf" not in part:
        return True
    possible = [each for each in part["oneOf"] if _type_name(value) in (_types_in(each, root) or {_type_name(value)})]
    return len(possible) == 1 and _allows(possible[0], value, root, found)


def _types_in(schema: Any, root: dict[str, Any]) -> frozenset[str]:
    return types_of_schema(resolved(schema, root), root)


def _type_name(value: bool | None) -> str:
    return "null" if value is None else "boolean"


class _Value:
    """Rules for one value and the mark after it. Strings are text without quotes, other values are JSON."""

    def __init__(self, function: Function, key: str, end: str, literals: Literals) -> None:
        self._function = function
        self._key = key
        self._end = end
        self._literals = literals
        self._types = types_of(function.parameters, key)
        self.is_text = not self._types or "string" in self._types

    def kinds(self, tags: Tags, schema: Any) -> list[tuple[str, Any]]:
        """The attributes that may stand before a value, each with what the value is then.

        A value that is text or something else has two, where the attribute says which.
        """
        part = resolved(schema, self._function.parameters)
        types = sorted(types_of_schema(part, self._function.parameters))
        is_open = not isinstance(part, dict) or "enum" in part or "const" in part
        if tags.text == tags.other or is_open or len(types) < 2 or "string" not in types:
            name = (types or ["object"])[0].replace("integer", "number")
            is_text = not types or "string" in types
            return [(tags.text if is_text else tags.other.replace("{type}", name), schema)]
        for several in ("anyOf", "oneOf"):
            if isinstance(part.get(several), list):
                return [kind for branch in part[several] for kind in self.kinds(tags, branch)]
        found = [(tags.text, {**part, "type": "string"})]
        for name in (each for each in types if each != "string"):
            attribute = tags.other.replace("{type}", name.replace("integer", "number"))
            found.append((attribute, {**part, "type": name}))
        return found

    def rules(self, name: str, schema: Any) -> list[str]:
        """The rule `name` and the rules it uses."""
        part = resolved(schema, self._function.parameters)
        part = part if isinstance(part, dict) else {}
        end = self._literals.literal(self._end)
        for several in ("anyOf", "oneOf"):
            if isinstance(part.get(several), list):
                names = [f"{name}_{i}" for i in range(len(part[several]))]
                found = [self.rules(each, branch) for each, branch in zip(names, part[several], strict=True)]
                return [f"{name}: {' | '.join(names)}", *(rule for rules in found for rule in rules)]
        if "enum" in part or "const" in part:
            values = part.get("enum", [part.get("const")])
            texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
            return [f"{name}: ({' | '.join(json.dumps(text, ensure_ascii=False) for text in texts)}) {end}"]
        types = types_of_schema(part, self._function.parameters)
        if types and "string" not in types:
            written = [
                json_value(_with_definitions(self._function, part)),
                *_python_words(part, self._function.parameters),
            ]
            return [f"{name}: ({' | '.join(written)}) {end}"]
        return _text(name, self._pattern(part), self._end, self._literals)

    def _pattern(self, part: dict[str, Any]) -> str:
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
