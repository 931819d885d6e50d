"""Answers in the real chat templates of families: read wherever they are cut, rendered again, and written by force."""

# ruff: noqa: RUF001 - marks of DeepSeek have fullwidth bars

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from container.api.openai.call_grammar import MarkIds, forced_calls
from container.api.openai.chat_prompt import ChatPrompt
from container.api.openai.choice import Choice
from container.api.openai.conversation import conversation
from container.api.openai.harmony import HarmonyReader
from container.api.openai.template_traits import TemplateTraits
from container.api.openai.tool_format import tool_format
from container.api.openai.tool_parsers import FormParser
from container.api.openai.tools import Function, ToolUse
from container.api.openai.written_calls import written_calls
from container.generation.generation import Delta, Token
from container.text.chat_template import ChatTemplate, RenderedPrompt
from container.text.tokenizer import Tokenizer
from handler.seam.protocol import FinishReason
from tests.support.grammars import takes
from tests.support.recorded import SCHEMAS, TOOLS, Answer, Recorded, recorded
from tests.unit.openai.marked_answers import Said, read, text_of, tokenizer_with

ALL = list(recorded())
FUNCTIONS = tuple(Function(name, f"Does {name}.", schema, strict=True) for name, schema in SCHEMAS.items())
USE = ToolUse(FUNCTIONS, (), parallel=True)
FORCED = ToolUse(FUNCTIONS, FUNCTIONS, parallel=True)
NO_IDS = MarkIds(lambda _: None, lambda _: None)
TOKEN = Token(0, "", special=False, logprob=None)
# Harmony's marks are control tokens; test_harmony.py has its grammar.
marked_by_spelling = pytest.mark.parametrize(
    "family", [family for family in ALL if family.form != "harmony"], ids=lambda family: family.name
)
families = pytest.mark.parametrize("family", ALL, ids=lambda family: family.name)


@cache
def model_of(name: str, *, control: bool) -> Model:
    """A template is compiled and probed once."""
    return Model(next(family for family in ALL if family.name == name), control=control)


class Model:
    """A family's template, with a tokenizer that has its marks as control tokens or as mere added tokens."""

    def __init__(self, family: Recorded, *, control: bool) -> None:
        marks = family.marks
        self.family = family
        self.tokenizer: Tokenizer = tokenizer_with(
            ["<s>", "</s>", *(marks if control else ())], () if control else marks
        )
        self.template = ChatTemplate({"default": family.source}, self.tokenizer)
        self.traits = TemplateTraits(self.template, self.tokenizer)

    def prompt(self, messages: list[dict[str, Any]], *, begins: bool) -> RenderedPrompt:
        shown, tools = conversation(messages, USE, None, self.traits)
        return self.template.render(
            shown,
            tools=tools,
            add_generation_prompt=begins,
            template_kwargs=self.family.options,
            null_content=self.traits.wants_null_content,
        )

    def calls_text(self, index: int) -> str:
        """The answer without its thought and text."""
        answer, form = self.family.answers[index], self.traits.form
        rest = answer.text
        for said in filter(None, (answer.reasoning, answer.content)):
            rest = rest.partition(said)[2]
        mark = form.opening or form.begin or (form.also[0] if answer.content and form.begun else "")
        return rest[rest.index(mark) + (len(mark) if form.begun else 0) :].strip() if mark else rest.strip()

    def reader(self, index: int) -> tuple[Callable[[], Choice], dict[int, str]]:
        """A new reader of the answer `index`, as a chat has it, and the control tokens that it sees."""
        rendered = self.prompt(self.family.messages(index), begins=True)
        traits, schemas = self.traits, SCHEMAS
        if (harmony := traits.harmony) is not None:
            return lambda: Choice(None, HarmonyReader(harmony, frozenset(schemas), rendered.marked)), harmony.shown
        prompt = ChatPrompt([], rendered, traits, None)
        form = traits.form
        return lambda: Choice(
            prompt.splitter(calls=True), FormParser(form, schemas), call_ids=form.call_ids
        ), traits.thoughts.shown


def told(choice: Choice, *pieces: str) -> tuple[str, str | None, list[tuple[str, str]]]:
    """What the client gets of an answer that comes in few pieces."""
    for piece in pieces:
        choice.add(Delta(piece, [TOKEN], None))
    choice.add(Delta("", [TOKEN], FinishReason.EOS))
    message = choice.message()
    calls: Any = message.tool_calls or []
    return (
        str(message.reasoning_content or ""),
        message.content,
        [(call.function.name, call.function.arguments) for call in calls],
    )


def expected(answer: Answer) -> tuple[str, str, list[tuple[str, Any]]]:
    return answer.reasoning, answer.content, answer.calls


def got(said: Said) -> tuple[str, str, list[tuple[str, Any]]]:
    return said.reasoning, said.content or "", [(name, json.loads(arguments)) for name, arguments in said.calls]


@families
def test_the_log_names_the_form(family: Recorded) -> None:
    class Served:
        def __init__(self, model: Model) -> None:
            self.chat_template, self.tokenizer = model.template, model.tokenizer

    served: Any = Served(model_of(family.name, control=True))
    assert tool_format(served).startswith(f"tool format: {family.form}")


@families
def test_an_answer_is_read_wherever_it_is_cut(family: Recorded) -> None:
    model = model_of(family.name, control=True)
    for index, answer in enumerate(family.answers):
        new_choice, marks = model.reader(index)
        text = text_of(model.tokenizer, answer.pieces, marks)
        whole = read(new_choice(), [text])
        assert got(whole) == expected(answer)
        assert read(new_choice(), list(text)) == whole
        parts = whole.reasoning, whole.content, whole.calls
        for place in range(1, len(text)):
            assert told(new_choice(), text[:place], text[place:]) == parts, text[:place][-40:]


def test_ids_of_calls_are_the_models() -> None:
    model = model_of("mistral-small-3.2", control=True)
    new_choice, marks = model.reader(1)
    choice = new_choice()
    told(choice, text_of(model.tokenizer, model.family.answers[1].pieces, marks))
    calls: Any = choice.message().tool_calls
    assert [call.id for call in calls] == ["call00001", "call00002"]


def test_an_id_that_is_none_is_replaced() -> None:
    model = model_of("mistral-small-3.2", control=True)
    new_choice, marks = model.reader(1)
    for written in ("[CALL_ID]call0000é[ARGS]", "[CALL_ID]call00001[ARGS]", "[CALL_ID][ARGS]", "[ARGS]"):
        choice = new_choice()
        pieces = ["[TOOL_CALLS]weather[CALL_ID]call00001[ARGS]{}", f"[TOOL_CALLS]weather{written}{{}}"]
        told(choice, text_of(model.tokenizer, pieces, marks))
        calls: Any = choice.message().tool_calls
        assert calls[0].id == "call00001"
        assert re.fullmatch(r"[0-9a-f]{9}", calls[1].id)


def test_an_id_of_an_earlier_call_is_replaced() -> None:
    model = model_of("mistral-small-3.2", control=True)
    prompt = ChatPrompt([], model.prompt(model.family.messages(1), begins=True), model.traits, None)
    form = model.traits.form
    choice = Choice(
        prompt.splitter(calls=True), FormParser(form, SCHEMAS), call_ids=form.call_ids, past_ids=("call00001",)
    )
    pieces = [f"[TOOL_CALLS]weather[CALL_ID]{each}[ARGS]{{}}" for each in ("call00001", "call00002")]
    told(choice, text_of(model.tokenizer, pieces, model.traits.thoughts.shown))
    calls: Any = choice.message().tool_calls
    assert re.fullmatch(r"[0-9a-f]{9}", calls[0].id)
    assert calls[1].id == "call00002"


def test_a_nullable_type_reaches_a_template_that_fails_on_it() -> None:
    """Hermes 3's calls itself without end on the type "null"."""
    model = model_of("hermes-3", control=True)
    assert not model.traits.takes_type_lists
    assert "coupon: str" in model.prompt(model.family.messages(0), begins=True).text


@pytest.mark.parametrize("name", ["deepseek-v3", "deepseek-v3.1", "deepseek-r1"])
def test_tools_reach_a_template_that_takes_none(name: str) -> None:
    """In the system message, with a call as the family writes it and marks that are tokens."""
    model = model_of(name, control=True)
    assert not model.traits.takes_tools
    rendered = model.prompt(model.family.messages(0), begins=True)
    assert json.dumps(TOOLS[1]["function"], ensure_ascii=False) in rendered.text
    example = written_calls(model.traits.form, [("example", {"key": "value"})])
    assert example in rendered.text
    mark = model.tokenizer.marker_token_id("<｜tool▁calls▁begin｜>")
    assert rendered.encode(model.tokenizer).count(mark) == 2


@marked_by_spelling
def test_marks_that_are_no_control_tokens(family: Recorded) -> None:
    model = model_of(family.name, control=False)
    for index, answer in enumerate(family.answers):
        new_choice, marks = model.reader(index)
        for pieces in (["".join(answer.pieces)], answer.pieces, list(answer.text)):
            shown = [text_of(model.tokenizer, list(piece), marks) for piece in pieces]
            assert got(read(new_choice(), shown)) == expected(answer)


@families
def test_the_next_prompt_holds_what_the_model_wrote(family: Recorded) -> None:
    """Byte for byte, or as the file says that the template writes it, and why."""
    model = model_of(family.name, control=True)
    for index, answer in enumerate(family.answers):
        prompt = model.prompt(family.messages(index + 1), begins=False).text
        assert answer.history in prompt
        assert bool(answer.why) == (answer.text not in prompt), "a difference is named, and only a difference"


@marked_by_spelling
def test_forced_calls_may_be_what_the_model_wrote(family: Recorded) -> None:
    model = model_of(family.name, control=False)
    found = forced_calls(FORCED, model.traits.form, NO_IDS)
    assert all(takes(found, model.calls_text(index)) for index in (0, 1)) == (not family.unforced)
