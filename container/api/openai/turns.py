"""Messages of a chat that grow turn by turn: adjacent turns of one side are one message."""

from __future__ import annotations

from typing import Any

from container.api.openai.system_messages import SYSTEM_ROLES

_JOINTS = {"user": "\n\n", "system": "\n\n", "developer": "\n\n"}


class Turns:
    """Collects texts, and joins them once: a body may have thousands.

    Texts of users and of system messages are parted by a blank line, those of one answer by a line break.
    """

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []

    @property
    def role(self) -> str | None:
        """Who speaks last."""
        return self._messages[-1]["role"] if self._messages else None

    @property
    def only_system(self) -> bool:
        """Whether nobody has spoken but the system."""
        return all(message["role"] in SYSTEM_ROLES for message in self._messages)

    def add(self, role: str, *texts: str) -> None:
        """A message of its own."""
        self._messages.append({"role": role, "content": list(texts)})

    def go_on(self, role: str, *texts: str) -> None:
        """More of the last message if it is of this role, else a new one."""
        if self.role != role:
            self.add(role)
        self._messages[-1]["content"] += texts

    def lead(self, role: str, text: str) -> None:
        """A system message: in front it is one with those before it."""
        if not self._messages or not self.only_system:
            self.add(role, text)
            return
        last = self._messages[-1]
        last["role"] = role if last["role"] == role else "system"
        last["content"].append(text)

    def think(self, text: str) -> None:
        """A thought of the assistant's turn."""
        self.go_on("assistant")
        if text:
            self._messages[-1].setdefault("reasoning_content", []).append(text)

    def call(self, call_id: str, name: str, arguments: Any) -> None:
        """A call of the assistant's turn; `arguments` are JSON text or an object."""
        self.go_on("assistant")
        found = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        self._messages[-1].setdefault("tool_calls", []).append(found)

    def result(self, call_id: str, text: str) -> None:
        """What a call returned."""
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": [text]})

    def messages(self) -> list[dict[str, Any]]:
        """The conversation as templates take it."""
        return [_joined(message) for message in self._messages]


def _joined(message: dict[str, Any]) -> dict[str, Any]:
    joint = _JOINTS.get(message["role"], "\n")
    texts = {key: message[key] for key in ("content", "reasoning_content") if key in message}
    return message | {key: joint.join(filter(None, found)) for key, found in texts.items()}
