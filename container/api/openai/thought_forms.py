"""How models mark their thoughts: one table, and which rows of it a model uses."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ThoughtForm:
    """A thought begins with one of `openings` and ends with one of `closings`.

    `label` may follow the opening. `answer` holds pairs of marks that may enclose the answer: an opening and its
    closings. `ending` closes a thought that the prompt has opened.
    """

    openings: tuple[str, ...]
    closings: tuple[str, ...]
    label: str = ""
    answer: tuple[tuple[str, tuple[str, ...]], ...] = ()
    ending: str = ""


def _form(opening: str, closing: str, label: str = "", answer: tuple[tuple[str, str], ...] = ()) -> ThoughtForm:
    pairs = tuple((begin, (end,)) for begin, end in answer)
    return ThoughtForm((opening,), (closing,), label, pairs, ending=closing)


# A tag's name that says what it holds: <think>, <seed:think>, <mm:think>, <longcat_think>, <ifm|think_fast>, <thought>.
_NAME = r"[\w:|.-]*(?:think|thought|reasoning)[\w:|.-]*"
_TAG = re.compile(rf"</?(?!\|)({_NAME})(?<!\|)>")
# Hunyuan, Ernie and Granite 3.3 write the answer between tags too.
_ANSWER = (("<answer>", ("</answer>",)), ("<response>", ("</response>",)))
_COHERE = (("<|START_RESPONSE|>", "<|END_RESPONSE|>"), ("<|START_TEXT|>", "<|END_TEXT|>"))
_KIMI = (("<|open|>response<|sep|>", ("<|close|>response<|sep|>", "<|close|>message<|sep|>")),)

FORMS: tuple[ThoughtForm, ...] = (
    _form("[THINK]", "[/THINK]"),
    _form("<|START_THINKING|>", "<|END_THINKING|>", answer=_COHERE),
    _form("<|channel>", "<channel|>", label="thought\n"),
    _form("<|inner_prefix|>", "<|inner_suffix|>"),
    _form("◁think▷", "◁/think▷"),
    _form("<|think:start|>", "<|think:end|>"),
    _form("<|begin_of_thought|>", "<|end_of_thought|>", answer=(("<|begin_of_solution|>", "<|end_of_solution|>"),)),
    _form("<|plamo:begin_think:plamo|>", "<|plamo:end_think:plamo|>"),
    _form("<|content_thinking|>", "<|end_message|>"),
    _form("<|think|>", "<|end|>", answer=(("<|begin|>assistant<|content|>", "<|end|>"),)),
    _form("[unused16]", "[unused17]"),
    ThoughtForm(
        ("<|open|>think<|sep|>",), ("<|close|>think<|sep|>",), answer=_KIMI, ending="<|close|>think<|sep|>"
    ),
    ThoughtForm(
        ("Here is my thought process:", "Here's my thought process:"),
        ("Here is my response:", "Here's my response:"),
        ending="\n\nHere is my response: ",
    ),
    ThoughtForm(
        ("Here are my reasoning steps:",), ("[BEGIN FINAL RESPONSE]",), ending="\n[BEGIN FINAL RESPONSE]\n"
    ),
)  # fmt: skip


def forms_of(template: str, added_tokens: Collection[str]) -> tuple[ThoughtForm, ...]:
    """The forms whose marks stand in the template's text or are added tokens of the vocabulary."""

    def is_known(mark: str) -> bool:
        return mark in template or mark in added_tokens

    def is_used(form: ThoughtForm) -> bool:
        # Some closing marks end all messages, not thoughts alone.
        telling = [mark for mark in form.closings if "think" in mark.lower() or "thought" in mark]
        # Gemma 4 says <|think|> to ask for thoughts, and has no <|end|>.
        closes = bool(telling) or any(map(is_known, form.closings))
        return closes and any(map(is_known, (*form.openings, *telling)))

    listed = filter(is_used, FORMS)
    return (*_tagged(template, added_tokens), *listed)


def _tagged(template: str, added_tokens: Collection[str]) -> Iterator[ThoughtForm]:
    """Pairs of tags whose name says that they hold thoughts: one of them in the template, or both added tokens."""
    closings = [token for token in added_tokens if token.startswith("</") and token.replace("/", "", 1) in added_tokens]
    answer = tuple(pair for pair in _ANSWER if pair[0] in template or pair[0] in added_tokens)
    for name in dict.fromkeys(_TAG.findall(template + "\0".join(sorted(closings)))):
        yield ThoughtForm((f"<{name}>",), (f"</{name}>",), answer=answer, ending=f"\n</{name}>\n\n")


# Something in brackets, directly before or after a thought.
_BRACKETS = r"(<[^<>\s]{1,64}>|\[[^\[\]\s]{1,64}\]|◁[^◁▷\s]{1,64}▷)"
_BEFORE = re.compile(_BRACKETS + r"\s*$")
_AFTER = re.compile(r"\s*" + _BRACKETS)


def form_shown(with_thought: str, without: str, thought: str) -> ThoughtForm | None:
    """The form in which a template renders `thought`: the marks around it, if nothing else has them."""
    before, found, after = with_thought.partition(thought)
    marks = _BEFORE.search(before), _AFTER.match(after)
    if not found or marks[0] is None or marks[1] is None:
        return None
    opening, closing = marks[0][1], marks[1][1]
    return None if opening in without or closing in without else _form(opening, closing)
