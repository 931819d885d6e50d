"""What a chat template supports, found from its text and by rendering probes."""

from __future__ import annotations

import enum
from functools import cached_property, lru_cache
from typing import Any

from container.api.openai.harmony import HarmonyMarks
from container.api.openai.mark_text import MarkText
from container.api.openai.response_template import ModelTemplate
from container.api.openai.thought_forms import ThoughtForm, form_shown, forms_of
from container.api.openai.thoughts import Thoughts
from container.api.openai.tool_parsers import PLAIN, Form, form_of
from container.text.chat_template import ChatTemplate, TemplateError
from container.text.tokenizer import Tokenizer

_PROBE = "Probe7f3a"
_SYSTEM = {"role": "system", "content": "a"}
_USER = {"role": "user", "content": "a"}
# A tool with everything that `Function.for_template` can give: a template may fail where a part is absent.
_PARAMETERS = {
    "type": "object",
    "description": _PROBE,
    "title": _PROBE,
    "properties": {
        "text": {"type": "string", "description": _PROBE, "title": "a", "enum": ["a", "b"], "default": "a"},
        "texts": {"type": "array", "description": _PROBE, "items": {"type": "string", "description": "a"}},
        "part": {
            "type": "object",
            "description": _PROBE,
            "properties": {"size": {"type": "integer", "description": "a", "minimum": 0, "maximum": 9}},
            "required": ["size"],
        },
    },
    "required": ["text", "texts"],
    "additionalProperties": False,
}
_TOOL = {"type": "function", "function": {"name": _PROBE, "description": _PROBE, "parameters": _PARAMETERS}}


class Place(enum.Enum):
    """Where a system message may stand but in front: after another, between other messages, or at the end."""

    SECOND = enum.auto()
    LATE = enum.auto()
    LAST = enum.auto()


class TemplateTraits:
    """Facts about one template and its tokenizer, each computed on first use."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self._render = template.render
        self._source = template.source + template.tool_source
        self._tokenizer = tokenizer
        self._vocabulary = template.added_tokens
        self._takes_later: dict[tuple[str, Place], bool] = {}

    @cached_property
    def form(self) -> Form:
        """How the model writes tool calls. `PLAIN` is what we ask for, and the guess where a template shows nothing."""
        return self.own.form or self.known_form or PLAIN

    @cached_property
    def own(self) -> ModelTemplate:
        """The checkpoint's own `response_template`, which comes before what the chat template shows."""
        harmony = self.harmony is not None
        return ModelTemplate.of(self._tokenizer, self.known_form, takes_tools=self.takes_tools, harmony=harmony)

    @cached_property
    def known_form(self) -> Form | None:
        """The form in the template, in what it renders, or in the vocabulary; None if there is none."""
        if not self.takes_tools:
            return None
        rendered = (self._rendered(messages, [_TOOL]) for messages in ([_USER], _with_call({"a": "b"})))
        return form_of("\n".join([self._source, *rendered]), self._vocabulary)

    def _shown_thought(self) -> ThoughtForm | None:
        """How the template renders the thought of an earlier answer."""
        answer = {"role": "assistant", "content": "a"}
        thinking = self._rendered([_USER, {**answer, "reasoning_content": _PROBE}], begins_answer=False)
        return form_shown(thinking, self._rendered([_USER, answer], begins_answer=False), _PROBE)

    @cached_property
    def harmony(self) -> HarmonyMarks | None:
        """The marks of a model that answers in harmony."""
        return HarmonyMarks.of(self._source, self._tokenizer)

    @cached_property
    def takes_tools(self) -> bool:
        """Whether tools given to the template reach the prompt."""
        return _PROBE in self._rendered([_USER], [_TOOL])

    @cached_property
    def takes_system(self) -> bool:
        """Whether a system message reaches the prompt."""
        return _PROBE in self._rendered([{"role": "system", "content": _PROBE}, _USER])

    @cached_property
    def takes_developer(self) -> bool:
        """Whether the template mentions the developer role, and shows its message."""
        developer = {"role": "developer", "content": _PROBE}
        return "developer" in self._source and _PROBE in self._rendered([developer, _USER])

    def takes_later(self, role: str, place: Place) -> bool:
        """Whether a message of `role`, system or developer, reaches the prompt there."""
        if (role, place) not in self._takes_later:
            late: dict[str, Any] = {"role": role, "content": _PROBE}
            conversations = {
                Place.SECOND: [_SYSTEM, late, _USER],
                Place.LATE: [_SYSTEM, _USER, {"role": "assistant", "content": "a"}, late, _USER],
                Place.LAST: [_SYSTEM, _USER, late],
            }
            self._takes_later[role, place] = _PROBE in self._rendered(conversations[place])
        return self._takes_later[role, place]

    @cached_property
    def thoughts(self) -> Thoughts:
        """How the model marks its thoughts."""
        if self.harmony is not None:
            return Thoughts((), MarkText(self._tokenizer))
        forms = forms_of(self._source, self._tokenizer.added_tokens)
        if not forms and (shown := self._shown_thought()) is not None:
            forms = (shown,)
        forms += self.own.thoughts(forms)
        begins = self.form.begins
        return Thoughts(forms, MarkText(self._tokenizer, self.form.marks), begins[0] if begins else "")

    @cached_property
    def writes_argument_objects(self) -> bool:
        """Whether past calls' arguments must be objects, as in transformers, rather than JSON text.

        False only for templates that fail on an object, or print it as Python's repr, but handle text.
        """
        as_object = self._rendered(_with_call({"a": "b"}))
        if as_object and "'b'" not in as_object:
            return True
        return '"b"' not in self._rendered(_with_call('{"a": "b"}'))

    @cached_property
    def splits_calls(self) -> bool:
        """Whether a template that loses or refuses the second call of an answer shows it in an answer of its own."""
        first, second = (_call(name, f"call0000{i}") for i, name in enumerate(("f", _PROBE)))
        results = [
            {"role": "tool", "content": "b", "tool_call_id": call["id"], "name": "f"} for call in (first, second)
        ]
        together = [_USER, _answer(first, second), *results]
        apart = [_USER, _answer(first), results[0], _answer(second), results[1]]
        return _PROBE not in self._rendered(together) and _PROBE in self._rendered(apart)

    @cached_property
    def takes_thought_or_text(self) -> bool:
        """Whether a template loses or refuses a call's text if a thought comes with it, but takes either alone."""
        answer = _answer(_call("f", "call00000"))
        text, thought = {"content": _PROBE}, {"reasoning_content": _PROBE}
        both = self._rendered([_USER, {**answer, **text, "reasoning_content": "c"}])
        return _PROBE not in both and all(
            _PROBE in self._rendered([_USER, {**answer, **one}]) for one in (text, thought)
        )

    def mentions(self, variable: str) -> bool:
        """Whether the template's text names `variable`."""
        return variable in self._source

    def _rendered(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        *,
        begins_answer: bool = True,
    ) -> str:
        """The prompt, "" if the template refuses."""
        try:
            return self._render(messages, tools=tools, add_generation_prompt=begins_answer).text
        except TemplateError:
            return ""


@lru_cache(maxsize=16)
def traits_of(template: ChatTemplate, tokenizer: Tokenizer) -> TemplateTraits:
    """The traits of a template, computed once per loaded template."""
    return TemplateTraits(template, tokenizer)


def _with_call(arguments: Any) -> list[dict[str, Any]]:
    call = _call("f", "call00001", arguments)
    return [_USER, _answer(call), {"role": "tool", "content": "b", "tool_call_id": "call00001", "name": "f"}]


def _call(name: str, call_id: str, arguments: Any = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _answer(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": list(calls)}
