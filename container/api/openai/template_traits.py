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
from container.errors import TemplateFailed
from container.text.chat_template import ChatTemplate, TemplateEnded, TemplateError
from container.text.tokenizer import Tokenizer

_PROBE = "Probe7f3a"
_SECOND = "Sample4c9d"
_THINKING = {"role": "assistant", "content": "a", "reasoning_content": "b"}
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
        self._shows_results: dict[bool, bool] = {}

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
        if not (self.takes_tools or self.shows_calls):
            return None
        rendered = (self._rendered([_USER], [_TOOL]), self._rendered_call(self._argument("b"), [_TOOL]))
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
    def takes_type_lists(self) -> bool:
        """Whether the template takes a tool with an argument of several types."""
        properties = {"text": {"type": ["string", "null"], "description": "a"}}
        parameters = {"type": "object", "properties": properties, "required": []}
        function = {"name": _PROBE, "description": "a", "parameters": parameters}
        return _PROBE in self._rendered([_USER], [{"type": "function", "function": function}])

    @cached_property
    def shows_calls(self) -> bool:
        """Whether a past call reaches the prompt. DeepSeek's templates show calls and take no tools; LFM2's lose them.

        Any content of the answer may be lost (`wants_null_content`, `takes_call_text`).
        """
        return self.wants_null_content or self._shows_call("")

    def shows_results(self, *, with_tools: bool) -> bool:
        """Whether a result reaches the prompt, behind its call or behind the text that a lost call becomes."""
        if with_tools not in self._shows_results:
            called, text = _answer(self._call("f", "call00001")), {"role": "assistant", "content": "a"}
            answers = [called if self.shows_calls else text, _result("call00001", _SECOND)]
            self._shows_results[with_tools] = _SECOND in self._rendered_answers(
                answers, [_TOOL] if with_tools else None
            )
        return self._shows_results[with_tools]

    @cached_property
    def wants_null_content(self) -> bool:
        """Whether a past call is shown only beside a null, as in DeepSeek R1's template."""
        return not self._shows_call("") and self._shows_call(None)

    def _shows_call(self, content: str | None) -> bool:
        return any(
            _PROBE in self._rendered(_with_call(arguments, content, name=_PROBE), null_content=content is None)
            for arguments in ({"a": "b"}, '{"a": "b"}')
        )

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
        # Some templates put their marks together, as Kimi K3's and Hunyuan's.
        rendered = map(self._rendered, ([_USER], [_USER, _THINKING, _USER]))
        forms = forms_of("\n".join([self._source, *rendered]), self._tokenizer.added_tokens)
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
        as_object = self._rendered_call({"a": "b"})
        if as_object and "'b'" not in as_object:
            return True
        return '"b"' not in self._rendered_call('{"a": "b"}')

    @cached_property
    def splits_calls(self) -> bool:
        """Whether a template that loses or refuses the second call of an answer shows it in an answer of its own."""
        first, second = (self._call(name, f"call0000{i}") for i, name in enumerate(("f", _PROBE)))
        results = [_result(call["id"]) for call in (first, second)]
        together = [_answer(first, second), *results]
        apart = [_answer(first), results[0], _answer(second), results[1]]
        return _PROBE not in self._rendered_answers(together) and _PROBE in self._rendered_answers(apart)

    @cached_property
    def takes_call_text(self) -> bool:
        """Whether the text of an answer with a call reaches the prompt."""
        return not self.wants_null_content and self._shows_beside_call(content=_PROBE)

    @cached_property
    def takes_call_thought(self) -> bool:
        """Whether the thought of an answer with a call reaches the prompt."""
        return self._shows_beside_call(reasoning_content=_PROBE)

    @cached_property
    def takes_text_before_call(self) -> bool:
        """Whether an answer may be followed by another with calls, and both are shown."""
        text = {"role": "assistant", "content": _PROBE}
        rendered = self._rendered_answers([text, _answer(self._call(_SECOND, "call00001")), _result("call00001")])
        return _PROBE in rendered and _SECOND in rendered

    @cached_property
    def takes_thought_or_text(self) -> bool:
        """Whether a template loses or refuses a call's text if a thought comes with it, but takes either alone."""
        both = self._shows_beside_call(content=_PROBE, reasoning_content="c")
        return not both and self.takes_call_text and self.takes_call_thought

    def _shows_beside_call(self, **fields: str) -> bool:
        answer = _answer(self._call("f", "call00001"))
        return _PROBE in self._rendered_answers([{**answer, **fields}, _result("call00001")])

    def _call(self, name: str, call_id: str) -> dict[str, Any]:
        """A call whose arguments are as the template takes them."""
        return _call(name, call_id, self._argument("b"))

    def _rendered_answers(self, answers: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
        """A conversation that ends with `answers` and their results, "" if the template refuses."""
        is_null = self.wants_null_content
        shown = [{**each, "content": None} if is_null and "tool_calls" in each else each for each in answers]
        return self._rendered([_USER, *shown], tools, null_content=is_null)

    def _rendered_call(self, arguments: Any, tools: list[dict[str, Any]] | None = None) -> str:
        """A conversation with one call, "" if the template refuses."""
        is_null = self.wants_null_content
        return self._rendered(_with_call(arguments, None if is_null else ""), tools, null_content=is_null)

    def _argument(self, value: str) -> Any:
        """One argument as the template takes it."""
        return {"a": value} if self.writes_argument_objects else f'{{"a": "{value}"}}'

    def mentions(self, variable: str) -> bool:
        """Whether the template's text names `variable`."""
        return variable in self._source

    def _rendered(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        *,
        begins_answer: bool = True,
        null_content: bool = False,
    ) -> str:
        """The prompt, "" if the template refuses. Raises TemplateFailed if it did not answer: traits are remembered."""
        try:
            return self._render(
                messages, tools=tools, add_generation_prompt=begins_answer, null_content=null_content
            ).text
        except TemplateEnded as exc:
            raise TemplateFailed(str(exc)) from exc
        except TemplateError:
            return ""


@lru_cache(maxsize=16)
def traits_of(template: ChatTemplate, tokenizer: Tokenizer) -> TemplateTraits:
    """The traits of a template, computed once per loaded template."""
    return TemplateTraits(template, tokenizer)


def _with_call(arguments: Any, content: str | None = "", name: str = "f") -> list[dict[str, Any]]:
    return [_USER, _answer(_call(name, "call00001", arguments), content=content), _result("call00001")]


def _result(call_id: str, content: str = "b") -> dict[str, Any]:
    return {"role": "tool", "content": content, "tool_call_id": call_id, "name": "f"}


def _call(name: str, call_id: str, arguments: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _answer(*calls: dict[str, Any], content: str | None = "") -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}
