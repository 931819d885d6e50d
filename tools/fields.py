"""`python -m tools.fields`: regenerates the table of fields in `docs/api.md` from the request types and their rules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec

from container.api.openai import messages, reasoning_effort, tools
from container.api.openai.chat_request import ChatRequest
from container.api.openai.completion_request import CompletionRequest
from container.api.openai.field_rules import RULES, Ignored, NotDone
from container.api.openai.sampling import StreamOptions

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
_BEGIN = "<!-- fields: written by `python -m tools.fields`; do not edit -->\n"
_END = "<!-- fields: end -->\n"

_Struct = type[msgspec.Struct]
_STATUSES = ("done", "neutral values", "ignored", "refused")
# Objects of a request with the types that read them, and what tells these apart.
OBJECTS: tuple[tuple[str, dict[str, _Struct]], ...] = (
    ("the body", {"/v1/chat/completions": ChatRequest, "/v1/completions": CompletionRequest}),
    (
        "`messages[]`",
        {
            "user": messages.UserMessage,
            "system": messages.SystemMessage,
            "developer": messages.DeveloperMessage,
            "assistant": messages.AssistantMessage,
            "tool": messages.ToolMessage,
            "function": messages.FunctionMessage,
        },
    ),
    ("`content[]`", {"text": messages.TextPart, "refusal": messages.RefusalPart}),
    ("`tool_calls[]`", {"": messages.ToolCall}),
    ("`tool_calls[].function`", {"": messages.CalledFunction}),
    ("`tools[]`", {"": tools.Tool}),
    ("`tools[].function`", {"": tools.FunctionFields}),
    ("`tool_choice`", {"": tools.ToolChoice}),
    ("`tool_choice.function`", {"": tools.FunctionName}),
    ("`stream_options`", {"": StreamOptions}),
    ("`reasoning`", {"": reasoning_effort.Reasoning}),
    ("`thinking`", {"": reasoning_effort.Thinking}),
)


def fields_of(struct: _Struct) -> dict[str, str]:
    """Each field, as the page writes it, with its status."""
    found = {f"`{field.encode_name}`": "done" for field in msgspec.structs.fields(struct)}
    tag = struct.__struct_config__.tag_field
    found |= {f"`{tag}`": "done"} if tag else {}
    for name, rule in RULES.get(struct.__name__, {}).items():
        if f"`{name}`" in found:
            continue
        if isinstance(rule, NotDone):
            values = ", ".join(json.dumps(value) for value in rule.neutral)
            found[f"`{name}` ({values})" if values else f"`{name}`"] = "neutral values" if values else "refused"
        else:
            found[f"`{name}`"] = "ignored" if isinstance(rule, Ignored) else "done"
    return found


def table() -> str:
    """The table's lines."""
    lines = ["| object | status | fields |", "|---|---|---|"]
    for title, structs in OBJECTS:
        lines += _rows(title, structs)
    return "\n".join(lines) + "\n"


def _rows(title: str, structs: dict[str, _Struct]) -> Iterator[str]:
    """What all structs share, then what each has of its own."""
    statuses = {apart: fields_of(struct) for apart, struct in structs.items()}
    shared = dict.fromkeys(next(iter(statuses.values())).items())
    common = dict(item for item in shared if all(item in each.items() for each in statuses.values()))
    yield from _by_status(title, common)
    for apart, each in statuses.items():
        yield from _by_status(f"{title}: {apart}", {name: each[name] for name in each if name not in common})


def _by_status(title: str, fields: dict[str, str]) -> Iterator[str]:
    for status in _STATUSES:
        names = [name for name, found in fields.items() if found == status]
        if names:
            yield f"| {title} | {status} | {', '.join(names)} |"


def page(text: str) -> str:
    """The page `text` with today's table."""
    before, _, rest = text.partition(_BEGIN)
    return f"{before}{_BEGIN}\n{table()}\n{_END}{rest.partition(_END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
