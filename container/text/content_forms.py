"""Whether a template accepts a message's content as a string, as a list of parts, or both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from container.text.template_sandbox import TemplateEnded, TemplateError

Message = dict[str, Any]
_PROBE = "Probe7f3a"
_PARTS = [{"type": "text", "text": _PROBE}]


class ContentForms:
    """Converts content to a form the template shows, found by rendering a probe once for each role.

    If the template shows both forms, content is left as it is. If it fails on a list or prints its repr, the text parts
    are joined without a separator. If it shows a list but loses a string, the string becomes one part.
    """

    def __init__(self, render: Callable[[list[Message]], str]) -> None:
        """`render` renders a conversation and raises `TemplateError`."""
        self._render = render
        self._known: dict[str, tuple[bool, bool]] = {}

    def adapt(self, message: Message) -> Message:
        """`message` with its content in a form the template shows.

        Raises `TemplateError` if a part is not text and the template accepts only strings.
        """
        content = message.get("content")
        if not isinstance(content, (str, list)):
            return message
        shows_string, shows_parts = self._shown(str(message.get("role")))
        if isinstance(content, str) and not shows_string and shows_parts:
            return {**message, "content": [{"type": "text", "text": content}]}
        if isinstance(content, list) and not shows_parts:
            return {**message, "content": "".join(map(_text_of, content))}
        return message

    def _shown(self, role: str) -> tuple[bool, bool]:
        # Roles come from requests. Unknown roles share one entry, so that the table stays small.
        known = role if role in _CONVERSATIONS else "system"
        if known not in self._known:
            self._known[known] = self._shows(known, _PROBE), self._shows(known, _PARTS)
        return self._known[known]

    def _shows(self, role: str, content: str | list[dict[str, str]]) -> bool:
        before, after = _CONVERSATIONS[role]
        message: Message = {"role": role, "content": content, **_FIELDS.get(role, {})}
        try:
            text = self._render([*before, message, *after])
        except TemplateEnded:
            # It would be remembered as the template's refusal.
            raise
        except TemplateError:
            return False
        # Quotes around the probe mean that the list was printed as Python or JSON.
        return _PROBE in text and f"'{_PROBE}'" not in text and f'"{_PROBE}"' not in text


_CALL = {"type": "function", "id": "call00001", "function": {"name": "f", "arguments": {}}}
_USER: Message = {"role": "user", "content": "a"}
# Messages before and after the probed one, in the order that templates insist on.
_CONVERSATIONS: dict[str, tuple[list[Message], list[Message]]] = {
    "system": ([], [_USER]),
    "user": ([], []),
    "assistant": ([_USER], []),
    "tool": ([_USER, {"role": "assistant", "content": "", "tool_calls": [_CALL]}], []),
}
_FIELDS: dict[str, Message] = {"tool": {"tool_call_id": "call00001", "name": "f"}}


def _text_of(part: Any) -> str:
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else None
    if not isinstance(text, str):
        raise TemplateError("The chat template of this model accepts text content only.")
    return text
