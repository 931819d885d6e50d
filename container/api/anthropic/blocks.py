"""The blocks and turns of a request to /v1/messages."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from container.api.anthropic.tools import CustomTool, SkippedServerTool
from container.api.openai.field_rules import Ignored, NotDone, Rules
from container.api.openai.reasoning_effort import Effort

ANY: Rules = {
    "cache_control": Ignored("prefixes are cached anyway"),
    **dict.fromkeys(("citations", "caller", "toolset_name"), Ignored("it repeats a part of an earlier answer")),
    **dict.fromkeys(("id", "index"), Ignored("it belongs to the client's own records")),
}
_TEXT = '"text"; this model reads text only'
ALLOWED = {
    "messages": "a non-empty array",
    "messages[].role": "one of user, assistant, system",
    "messages[].content": "a string or an array of blocks",
    "messages[].content[].type": (
        "one of text, tool_use, tool_result, thinking, redacted_thinking, tool_addition, tool_removal, each in its "
        "role; this model reads text only"
    ),
    "messages[].content[].content": "a string or an array of text blocks",
    "messages[].content[].content[].type": '"text" or "tool_reference"; this model reads text only',
    "messages[].content[].tool.type": '"tool_reference" or "tool_definition"; no tool is run here',
    "messages[].clear_at": 'one of "next_user_message", "never"',
    "system": "a string or an array of text blocks",
    "system[].type": _TEXT,
}


class TextBlock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A piece of text."""

    foreign: ClassVar[Rules] = ANY
    text: str


class ThinkingBlock(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="thinking"
):
    """A thought of an earlier answer. `signature` has it if `thinking` was left out of the answer."""

    foreign: ClassVar[Rules] = ANY
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="redacted_thinking"
):
    """A thought that only another server can read; it is left out."""

    foreign: ClassVar[Rules] = ANY
    data: str


class ToolUseBlock(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool_use"
):
    """A call of an earlier answer."""

    foreign: ClassVar[Rules] = {name: rule for name, rule in ANY.items() if name != "id"}
    id: str
    name: str
    input: dict[str, Any]


class FoundTool(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool_reference"
):
    """A deferred tool that a search of the client's own has found: it is offered from here on."""

    foreign: ClassVar[Rules] = ANY
    tool_name: str


class ToolResultBlock(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool_result"
):
    """What a call returned, or why it failed."""

    foreign: ClassVar[Rules] = ANY
    tool_use_id: str
    content: str | list[TextBlock | FoundTool] | None = None
    is_error: bool | None = None


class NamedTool(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool_reference"
):
    """A tool of `tools`."""

    name: str


class DefinedTool(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool_definition"
):
    """A tool that `tools` does not have; it takes the place of one of the same name."""

    definition: CustomTool | SkippedServerTool


class ToolAddition(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool_addition"
):
    """The tool is offered from here on."""

    foreign: ClassVar[Rules] = ANY
    tool: NamedTool | DefinedTool


class ToolRemoval(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool_removal"
):
    """The tool is no longer offered."""

    foreign: ClassVar[Rules] = ANY
    tool: NamedTool


class TurnConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much to think from here on."""

    foreign: ClassVar[Rules] = {"format": NotDone("it stands in the request's own `output_config`")}
    effort: Effort | None = None


class UserTurn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="role", tag="user"):
    """The user's text and the results of calls."""

    foreign: ClassVar[Rules] = ANY
    content: str | list[TextBlock | ToolResultBlock]


class AssistantTurn(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="role", tag="assistant"
):
    """An earlier answer; the last one, if it is text, is continued."""

    foreign: ClassVar[Rules] = ANY
    content: str | list[TextBlock | ToolUseBlock | ThinkingBlock | RedactedThinkingBlock]


class SystemTurn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="role", tag="system"):
    """Instructions inside the conversation, and changes of what is offered.

    `clear_at` says how long the text is shown; tools and effort stay changed (`BetaSystemMessageParam`, anthropic
    2.14.0). Without text, `content` may be absent.
    """

    foreign: ClassVar[Rules] = ANY
    content: str | list[TextBlock | ToolAddition | ToolRemoval] = ""
    output_config: TurnConfig | None = None
    clear_at: Literal["next_user_message", "never"] | None = None


Turn = UserTurn | AssistantTurn | SystemTurn
