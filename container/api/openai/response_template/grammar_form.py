"""The form in which a grammar writes calls that a template reads: the family's own, else one made of its marks."""

from __future__ import annotations

import json
from typing import Any

from container.api.openai.harmony.marks import CHANNEL, CONSTRAIN, END, MESSAGE, START
from container.api.openai.parts import CallArguments, CallStart, Content, Part
from container.api.openai.response_template.body import JSON
from container.api.openai.response_template.control_signs import without_signs
from container.api.openai.response_template.mark import Mark
from container.api.openai.response_template.pattern_text import texts_between
from container.api.openai.response_template.reader import TemplateReader
from container.api.openai.response_template.template import Field, ResponseTemplate
from container.api.openai.response_template.transform import placeholder
from container.api.openai.tool_parsers import Form
from container.api.openai.tool_parsers.form import Arguments, Tags
from container.api.openai.written_calls import written_calls

MADE = "response_template"
# A name and arguments.
Call = tuple[str, dict[str, Any]]
_SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}, "count": {"type": "integer"}}}
_CALLS: tuple[Call, ...] = (("probe_a", {"text": "a b", "count": 3}), ("probe_b", {"count": 12}))


def grammar_form(template: ResponseTemplate, known: Form | None) -> Form | None:
    """`known`, the form of the model's family, or one made of the template's marks, if the template reads it."""
    made = _made_of(template.calls) if template.calls is not None else None
    return next((form for form in (known, made) if form is not None and _reads(template, form)), None)


def reads_harmony(template: ResponseTemplate) -> bool:
    """Whether the template reads all that a grammar in harmony allows (`harmony.grammar`)."""
    thought = f"{CHANNEL}analysis{MESSAGE}a b{END}{START}assistant"
    bodies = [(name, json.dumps(arguments)) for name, arguments in _CALLS]
    heads = [
        [head + kind for kind in ("", f" {CONSTRAIN}json", f"{CONSTRAIN}json", " json")]
        for head in (f"{CHANNEL}commentary to=functions.NAME", f" to=functions.NAME{CHANNEL}commentary")
    ]
    texts = [
        thought + f"{END}{START}assistant".join(head.replace("NAME", name) + MESSAGE + body for name, body in bodies)
        for each in heads
        for head in each
    ]
    final = _read(template, f"{thought}{CHANNEL}final{MESSAGE}c")
    return [part for part in final if isinstance(part, Content)] == [Content("c")] and all(
        _reads_calls(template, text, _CALLS) for text in texts
    )


def _reads(template: ResponseTemplate, form: Form) -> bool:
    """Whether the template reads one call and several as the form writes them, with its marks as control tokens."""
    for calls in (_CALLS[:1], _CALLS):
        text = str(written_calls(form, calls))
        # Other control tokens are letters in a grammar.
        unmarked = [token for token in template.signs.in_text(text) if token not in form.marks]
        if unmarked or not _reads_calls(template, text, calls):
            return False
    return True


def _reads_calls(template: ResponseTemplate, text: str, calls: tuple[Call, ...]) -> bool:
    found: list[list[str]] = []
    for part in _read(template, text):
        if isinstance(part, CallStart):
            found.append([part.name, ""])
        elif isinstance(part, CallArguments):
            found[-1][1] += part.fragment
        elif isinstance(part, Content) and part.text.strip():
            return False
    try:
        return [(name, json.loads(arguments)) for name, arguments in found] == list(calls)
    except ValueError:
        # Several calls read as one that is not well-formed.
        return False


def _read(template: ResponseTemplate, text: str) -> list[Part]:
    reader = TemplateReader(template, {name: _SCHEMA for name, _ in _CALLS}, "")
    return [*reader.push(template.signs.of_text(text)), *reader.flush()]


def _made_of(field: Field) -> Form | None:
    """The field's marks and keys as a form; None if they do not tell one."""
    opening = _texts(field.open, *(("name",) if field.open is not None and field.open.names else ()))
    closing = [""] if field.close is None else _texts(field.close)
    if opening is None or not opening[0] or closing is None:
        return None
    keys = _keys(field)
    if len(opening) == 2:
        return _named_form(field, opening, closing[0]) if keys == ("name", "content") else None
    if field.content == "python-call-list" and field.transform_each:
        more: dict[str, Any] = {"around": ("[", "]"), "between": "(", "tail": ")", "separator": ", "}
        return Form(MADE, Arguments.PYTHON, opening[0], closing=closing[0], **more)
    if field.content != JSON or field.content_args or keys is None:
        return None
    parts: dict[str, Any] = {"lead": f'{{"{keys[0]}": "', "between": f'", "{keys[1]}": ', "tail": "}"}
    if field.transform_each:
        return Form(MADE, opening=opening[0], around=("[", "]"), separator=", ", closing=closing[0], **parts)
    return Form(MADE, begin=opening[0], end=closing[0], **parts)


def _named_form(field: Field, opening: list[str], closing: str) -> Form | None:
    """The form of calls whose name stands in the opening."""
    args = field.content_args
    around: dict[str, Any] = {"begin": opening[0], "between": opening[1], "end": closing}
    if field.content == "xml-inline" and "value_parser" not in args:
        tag = texts_between(args["tag_pattern"].source, "key", "value")
        tags = Tags(tag[0], "", tag[2], tag[1], gap="") if tag is not None else None
        return None if tags is None else Form(MADE, Arguments.TAGS, tags=tags, **around)
    if field.content != JSON:
        return None
    if not args:
        return Form(MADE, Arguments.JSON, **around)
    quotes = {without_signs(text) for pair in args.get("string_delims", ()) for text in pair}
    is_quoted = args.get("unquoted_keys", False) and len(quotes) == 1
    return Form(MADE, Arguments.QUOTED, quotes=quotes.pop(), **around) if is_quoted else None


def _keys(field: Field) -> tuple[str, str] | None:
    """Where the transform finds name and arguments: keys of an object, or a group and the content."""
    whole = placeholder(field.transform, "function") or placeholder(field.transform)
    if field.transform is None or whole == "content":
        return "name", "arguments"
    found = [placeholder(field.transform, "function", key) for key in ("name", "arguments")]
    if not all(found) or any("." in each.removeprefix("content.") for each in found):
        return None
    return found[0].removeprefix("content."), found[1].removeprefix("content.")


def _texts(mark: Mark | None, *groups: str) -> list[str] | None:
    if mark is None:
        return None
    return [without_signs(mark.literals[0])] if mark.literals else texts_between(mark.source, *groups)
