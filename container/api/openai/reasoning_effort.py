"""How much a model should reason, in each spelling that clients send: `reasoning_effort` and template variables."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal

import msgspec

from container.api.openai.foreign_fields import read
from container.api.validation import check
from container.errors import InvalidRequest

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
# Qwen's and GLM's templates read the first, DeepSeek's and Kimi's the second.
SWITCHES = ("enable_thinking", "thinking")
_ALLOWED = {
    "thinking": "true, false or an object with `type`",
    "think": "true, false or an effort: none, minimal, low, medium, high, xhigh, max",
}


class Reasoning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """OpenRouter's `reasoning`."""

    effort: Effort | None = None
    enabled: bool | None = None
    exclude: bool | None = None
    max_tokens: int | None = None


class Thinking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Anthropic's, DeepSeek's and GLM's `thinking`."""

    type: Literal["enabled", "disabled", "adaptive", "auto"] | None = None
    budget_tokens: int | None = None


class ReasoningWishes(msgspec.Struct, frozen=True, kw_only=True):
    """The spellings. `think` is Ollama's, `enable_thinking` that of Qwen's own API."""

    reasoning: Reasoning | None = None
    thinking: Thinking | bool | None = None
    enable_thinking: bool | None = None
    think: bool | Effort | None = None

    @property
    def switches(self) -> Iterator[tuple[str, bool]]:
        """Each field that turns reasoning on or off."""
        if self.reasoning is not None and self.reasoning.enabled is not None:
            yield "reasoning.enabled", self.reasoning.enabled
        if isinstance(self.thinking, bool):
            yield "thinking", self.thinking
        elif self.thinking is not None and self.thinking.type in {"enabled", "disabled"}:
            yield "thinking.type", self.thinking.type == "enabled"
        if self.enable_thinking is not None:
            yield "enable_thinking", self.enable_thinking
        if isinstance(self.think, bool):
            yield "think", self.think

    @property
    def on(self) -> bool | None:
        """What the first of them says; None without any."""
        return next((on for _, on in self.switches), None)

    @property
    def efforts(self) -> Iterator[tuple[str, str]]:
        """Each field that says how much."""
        if self.reasoning is not None and self.reasoning.effort is not None:
            yield "reasoning.effort", self.reasoning.effort
        if isinstance(self.think, str):
            yield "think", self.think

    @property
    def others(self) -> Iterator[tuple[str, str, Any]]:
        """Each further field: its name, the request's field of the same meaning, the value."""
        if self.reasoning is not None and self.reasoning.max_tokens is not None:
            yield "reasoning.max_tokens", "thinking_token_budget", self.reasoning.max_tokens
        if isinstance(self.thinking, Thinking) and self.thinking.budget_tokens is not None:
            yield "thinking.budget_tokens", "thinking_token_budget", self.thinking.budget_tokens
        if self.reasoning is not None and self.reasoning.exclude:
            yield "reasoning.exclude", "include_reasoning", False


SPELLINGS = ReasoningWishes.__struct_fields__


def with_reasoning_effort(body: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """`body` with one spelling, that of the request's `known` fields. Raises InvalidRequest."""
    given = {name: value for name, value in body.items() if name in SPELLINGS and name not in known}
    if not given:
        return body
    wishes = read(given, ReasoningWishes, _ALLOWED)
    found = {name: value for name, value in body.items() if name not in given}
    for place, name, value in wishes.others:
        if name not in known:
            raise InvalidRequest(f"`{place}` is not supported: send `reasoning_effort`", param=place)
        check(place, "at least -1", value, value is False or value >= -1)
        found = _agreeing(found, name, value, place)
    for place, effort in wishes.efforts:
        found = _agreeing(found, "reasoning_effort", effort, place)
    for place, on in wishes.switches:
        if on is not wishes.on:
            raise InvalidRequest(f"`{place}` contradicts another field that turns reasoning on or off", param=place)
        found = _switched(found, on, place)
    return found


def budget_field(body: dict[str, Any]) -> str:
    """Where a checked `body` has `thinking_token_budget`."""
    for name, key in (("reasoning", "max_tokens"), ("thinking", "budget_tokens")):
        value = body.get(name)
        if isinstance(value, dict) and value.get(key) is not None and body.get("thinking_token_budget") is None:
            return f"{name}.{key}"
    return "thinking_token_budget"


def _switched(body: dict[str, Any], on: bool, place: str) -> dict[str, Any]:
    """Off is the effort "none"; on leaves the effort open. Both are variables of templates."""
    if on and body.get("reasoning_effort") == "none":
        raise InvalidRequest(f'`{place}` and `reasoning_effort` "none" exclude each other', param=place)
    body = body if on else _agreeing(body, "reasoning_effort", "none", place)
    variables = body.get("chat_template_kwargs")
    if variables is not None and not isinstance(variables, dict):
        return body  # which is refused with its type
    return body | {"chat_template_kwargs": dict.fromkeys(SWITCHES, on) | (variables or {})}


def _agreeing(body: dict[str, Any], name: str, value: Any, place: str) -> dict[str, Any]:
    if body.get(name) not in (None, value):
        raise InvalidRequest(f"`{place}` and `{name}` contradict each other", param=place)
    return body | {name: value}
