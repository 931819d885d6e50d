"""Thoughts between the marks of every family, in the answer or begun by the prompt, wherever the text is cut."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from container.api.openai.choice import Choice
from container.api.openai.mark_text import SIGN, MarkText
from container.api.openai.reasoning import ReasoningSplitter
from container.api.openai.template_traits import TemplateTraits
from container.api.openai.thought_forms import forms_of
from container.api.openai.thoughts import Thoughts
from container.api.openai.tool_parsers import FORMS, FormParser
from handler.seam.protocol import FinishReason
from tests.unit.openai.marked_answers import CHATML, Said, read_everywhere, template_of, text_of, tokenizer_with


@dataclass(frozen=True)
class Model:
    """A template that names marks, and a vocabulary that holds some as special and some as plain added tokens."""

    names: str = ""
    special: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    prompt: str = ""
    continued: str | None = None

    def says(self, *pieces: str, reason: FinishReason = FinishReason.EOS) -> Said:
        tokenizer = tokenizer_with(self.special, self.plain)
        source = CHATML + "{# " + self.names + " #}"
        thoughts = TemplateTraits(template_of(source, tokenizer), tokenizer).thoughts
        text = text_of(tokenizer, pieces, thoughts.shown)
        return read_everywhere(lambda: Choice(self.splitter(thoughts), None), text, reason)

    def splitter(self, thoughts: Thoughts) -> ReasoningSplitter:
        opened = thoughts.opened_by(self.prompt)
        if self.continued is not None:
            opened = opened or thoughts.left_open_by(self.continued)
        closings = thoughts.answer_opened_by(self.prompt)
        return ReasoningSplitter(thoughts, opened=opened, begun=bool(self.continued), closings=closings)


THINK = ("<think>", "</think>")
MISTRAL = ("[THINK]", "[/THINK]")
COHERE = ("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>")
KIMI = ("<|open|>", "<|close|>", "<|sep|>")
KIMI_MARKS = "<|open|>think<|sep|> <|close|>think<|sep|> <|open|>response<|sep|>"
PLAMO = ("<|plamo:begin_", "<|plamo:end_", ":plamo|>")
PLAMO_MARKS = "<|plamo:begin_think:plamo|> <|plamo:end_think:plamo|>"
NEVER = "think_never_used_51bce0c785ca2f68081bfa7d91973934"
GRANITE = "Here is my thought process: Here is my response:"


@dataclass(frozen=True)
class Row:
    """The pieces that a model writes; by default it thinks 2+2 and answers 4."""

    model: Model
    pieces: tuple[str, ...]
    reasoning: str = "2+2"
    content: str = "4"


FAMILIES = {
    "qwen3": Row(Model("<think>", plain=THINK), ("<think>", "\n2+2\n", "</think>", "\n\n4")),
    "qwq": Row(Model("<think>", plain=THINK, prompt="<think>\n"), ("2+2\n", "</think>", "\n\n4")),
    "r1, no added tokens": Row(Model("'</think>'"), ("<think>\n2+2\n</think>\n\n4",)),
    "special think": Row(Model("<think>", special=THINK), ("<think>", "2+2", "</think>", "4")),
    "tokens alone": Row(Model(special=THINK), ("<think>", "2+2", "</think>", "4")),
    "plain tokens alone": Row(Model(plain=THINK), ("<think>", "2+2", "</think>", "4")),
    "magistral": Row(Model("[THINK]", special=MISTRAL), ("[THINK]", "2+2", "[/THINK]", "4")),
    "magistral, prefilled": Row(Model("[THINK]", special=MISTRAL, prompt="[THINK]"), ("2+2", "[/THINK]", "4")),
    "seed": Row(
        Model(special=("<seed:think>", "</seed:think>")), ("<seed:think>", "2+2", "</seed:think>", "4")
    ),
    "doubao": Row(Model(f"<{NEVER}>"), (f"<{NEVER}>2+2</{NEVER}>4",)),
    "exaone deep": Row(Model("<thought>", prompt="<thought>\n"), ("2+2\n</thought>\n\n4",)),
    "reka": Row(Model("<reasoning>"), (" <reasoning>2+2</reasoning> 4",)),
    "minimax m3": Row(Model(special=("<mm:think>", "</mm:think>")), ("<mm:think>", "2+2", "</mm:think>", "4")),
    "minimax m3, stray": Row(Model(special=("<mm:think>", "</mm:think>")), ("</mm:think>", "4"), reasoning=""),
    "longcat": Row(Model("<longcat_think>", prompt="<longcat_think>"), ("2+2</longcat_think>4",)),
    "k2 horizon": Row(
        Model(special=("<ifm|think_fast>", "</ifm|think_fast>")), ("<ifm|think_fast>", "2+2", "</ifm|think_fast>", "4")
    ),
    "cohere": Row(
        Model(COHERE[0], special=COHERE), (COHERE[0], "2+2", COHERE[1], COHERE[2], "4", COHERE[3])
    ),
    "cohere, prefilled": Row(Model(COHERE[0], special=COHERE, prompt=COHERE[0]), ("2+2", *COHERE[1:3], "4", COHERE[3])),
    "cohere, no thought": Row(Model(COHERE[0], special=COHERE), (COHERE[2], "4", COHERE[3]), reasoning=""),
    "cohere, thought not ended": Row(
        Model(COHERE[0], special=COHERE), (COHERE[0], "2+2", COHERE[2], "4", COHERE[3])
    ),
    "gemma 4": Row(Model(special=("<|channel>", "<channel|>")), ("<|channel>", "thought\n2+2", "<channel|>", "4")),
    "gemma 4, prefilled": Row(
        Model(special=("<|channel>", "<channel|>"), prompt="<|channel>thought\n"), ("2+2", "<channel|>", "4")
    ),
    "gemma 4, empty": Row(
        Model(special=("<|channel>", "<channel|>")), ("<|channel>", "thought\n", "<channel|>", "4"), reasoning=""
    ),
    "apertus": Row(
        Model(special=("<|inner_prefix|>", "<|inner_suffix|>")), ("<|inner_prefix|>", "2+2", "<|inner_suffix|>", "4")
    ),
    "kimi vl": Row(Model("◁think▷"), ("◁think▷2+2◁/think▷4",)),
    "kimi k3": Row(
        Model(KIMI_MARKS, special=KIMI),
        ("<|open|>think<|sep|>2+2<|close|>think<|sep|><|open|>response<|sep|>4<|close|>response<|sep|>"
         "<|close|>message<|sep|>",),
    ),
    "solar open 2": Row(
        Model(special=("<|think:start|>", "<|think:end|>"), prompt="<|think:start|>"), ("2+2", "<|think:end|>", "4")
    ),
    "solar open": Row(
        Model("<|think|>", special=("<|think|>", "<|end|>", "<|begin|>", "<|content|>")),
        ("<|think|>2+2<|end|><|begin|>assistant<|content|>4<|end|>",),
    ),
    "plamo 3": Row(
        Model(PLAMO_MARKS, special=PLAMO), ("<|plamo:begin_think:plamo|>2+2<|plamo:end_think:plamo|>4",)
    ),
    "inkling": Row(
        Model(special=("<|message_model|>", "<|content_thinking|>", "<|content_text|>", "<|end_message|>")),
        ("<|message_model|><|content_thinking|>2+2<|end_message|><|message_model|><|content_text|>4<|end_message|>",),
    ),
    "sky-t1": Row(
        Model("<|begin_of_thought|> <|end_of_thought|> <|begin_of_solution|>"),
        ("<|begin_of_thought|>\n\n2+2\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n4\n\n<|end_of_solution|>",),
    ),
    "pangu": Row(Model(special=("[unused16]", "[unused17]")), ("[unused16]", "2+2", "[unused17]", "4")),
    "granite 3.2": Row(Model(GRANITE), ("Here is my thought process: 2+2\n\nHere is my response: 4",)),
    "granite 3.2, quantised": Row(Model(GRANITE), ("Here's my thought process:2+2 Here's my response:4",)),
    "hunyuan": Row(Model("<think> <answer>"), ("<think>\n2+2\n</think>\n<answer>\n4\n</answer>",)),
    "hunyuan, answer prefilled": Row(
        Model("<think> <answer>", prompt="<think>\n\n</think>\n<answer>\n"), ("4\n</answer>",), reasoning=""
    ),
    "ernie": Row(Model("<think>", plain=("<response>", "</response>"), prompt="<think>\n"),
                 ("2+2\n</think>\n\n", "<response>", "\n4\n", "</response>", "\n")),
}  # fmt: skip


@pytest.mark.parametrize("row", FAMILIES.values(), ids=FAMILIES.keys())
def test_each_familys_thoughts(row: Row) -> None:
    said = row.model.says(*row.pieces)
    assert (said.reasoning, said.content) == (row.reasoning, row.content)


def shows(opening: str, closing: str) -> str:
    """A template that renders thoughts between two marks."""
    thought = "{% if m.reasoning_content %}" + opening + "{{ m.reasoning_content }}" + closing + "{% endif %}"
    return CHATML.replace("{{ m.content }}", thought + "{{ m.content }}")


@pytest.mark.parametrize(
    ("opening", "closing", "special"),
    [
        ("<|muse|>", "<|/muse|>", True),
        ("<|muse|>\n", "\n<|/muse|>\n\n", False),
        ("[SCRATCH]", "[/SCRATCH]", True),
        ("<scratchpad>", "</scratchpad>", False),
    ],
)
def test_marks_that_only_the_template_knows(opening: str, closing: str, special: bool) -> None:
    marks = (opening.strip(), closing.strip())
    tokenizer = tokenizer_with((*marks, "<|im_start|>", "<|im_end|>") if special else ())
    thoughts = TemplateTraits(template_of(shows(opening, closing), tokenizer), tokenizer).thoughts
    text = text_of(tokenizer, [opening, "2+2", closing, "4"], thoughts.shown)
    said = read_everywhere(lambda: Choice(ReasoningSplitter(thoughts), None), text)
    assert (said.reasoning, said.content) == ("2+2", "4")


HEADERS = "{% if add_generation_prompt %}<|head|>assistant<|neck|>{% endif %}"
MESSAGE = "<|head|>{{ m.role }}<|neck|>{{ m.content }}<|eot|>"
OWN_MESSAGE = "{% if m.reasoning_content %}<|head|>assistant<|neck|>{{ m.reasoning_content }}<|eot|>{% endif %}"


@pytest.mark.parametrize(
    "source",
    [
        shows("", ""),
        shows("Thought: ", "\n"),
        shows("<a>", ""),
        shows("<a>", "<|im_end|>"),
        "{% for m in messages %}" + OWN_MESSAGE + MESSAGE + "{% endfor %}" + HEADERS,
    ],
)
def test_what_stands_around_other_texts_too_is_no_mark(source: str) -> None:
    tokenizer = tokenizer_with(())
    assert not TemplateTraits(template_of(source, tokenizer), tokenizer).thoughts.forms


SPECIAL = Model(special=MISTRAL)
PLAIN = Model("<think>", plain=THINK)
PLACES = [
    # Wherever a control token begins a thought
    (SPECIAL, ("Well. ", "[THINK]", "2+2", "[/THINK]", "4"), "2+2", "Well. 4"),
    (SPECIAL, ("[THINK]", "1", "[/THINK]", "a ", "[THINK]", "2", "[/THINK]", "b"), "1\n2", "a b"),
    (SPECIAL, ("[THINK]", "[/THINK]", "[THINK]", "2", "[/THINK]", "b"), "2", "b"),
    # The same letters as text are no mark, inside a thought and outside
    (SPECIAL, ("[TH", "INK]no[/TH", "INK]"), "", "[THINK]no[/THINK]"),
    (SPECIAL, ("[THINK]", "is [/TH", "INK] the end?", "[/THINK]", "4"), "is [/THINK] the end?", "4"),
    # A plain mark begins a thought at the beginning; later it is what the answer is about
    (PLAIN, ("Use ", "<think>", " tags, ", "</think>", "."), "", "Use <think> tags, </think>."),
    (PLAIN, ("<think>", "2", "</think>", "say ", "<think>"), "2", "say <think>"),
    (PLAIN, ("<think>", "</think>", "\n\n", "<think>", "2", "</think>", "4"), "2", "4"),
    # Opened by the prompt, and by the model again
    (Model("<think>", plain=THINK, prompt="<think>"), ("<think>", "2", "</think>", "4"), "2", "4"),
    (Model("<think>", plain=THINK, prompt="<think>\n\n</think>\n\n"), ("4",), "", "4"),
    # In the message that the model continues
    (Model("<think>", continued="<think>\nFirst, "), ("2+2</think>4",), "2+2", "4"),
    (Model("<think>", continued="<think>a</think>It"), (" is <think>",), "", " is <think>"),
    # Never closed, never opened, cut
    (SPECIAL, ("[THINK]", "2+2 ="), "2+2 =", ""),
    (PLAIN, ("<think>", "2+2 </thi"), "2+2 </thi", ""),
    (PLAIN, ("<thi",), "", "<thi"),
    (SPECIAL, ("2+2 is 4", "[/THINK]", "4"), "", "2+2 is 4[/THINK]4"),
    (PLAIN, (" \n ",), "", " \n "),
    (PLAIN, ("\n Hi\n",), "", "\n Hi\n"),
    (Model(), ("<think>a</think>b",), "", "<think>a</think>b"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "pieces", "reasoning", "content"), PLACES)
def test_where_thoughts_begin_and_end(model: Model, pieces: tuple[str, ...], reasoning: str, content: str) -> None:
    said = model.says(*pieces)
    assert (said.reasoning, said.content) == (reasoning, content)
    assert SIGN not in reasoning + content


HERMES = next(form for form in FORMS if form.name == "hermes")
CALL = '{"name": "f", "arguments": {}}'
UNCLOSED = [
    # The call's marks are control tokens, or text; whether tools are in use; what the model writes
    (True, True, ["<think>", "Call: ", "<tool_call>", CALL, "</tool_call>"], "Call:", 1),
    (False, True, ["<think>", "Call:\n", "<tool_call>", CALL, "</tool_call>"], "Call:", 1),
    (False, True, ["<think>", "\n", "<tool_call>", CALL, "</tool_call>"], "", 1),
    (False, True, ["<think>", "A <tool_call> tag", "</think>", "4"], "A <tool_call> tag", 0),
    (False, False, ["<think>", "Call:\n", "<tool_call>", "no"], "Call:\n<tool_call>no", 0),
]


@pytest.mark.parametrize(("control", "calls", "pieces", "reasoning", "num_calls"), UNCLOSED)
def test_a_call_ends_a_thought(control: bool, calls: bool, pieces: list[str], reasoning: str, num_calls: int) -> None:
    marks = HERMES.marks
    tokenizer = tokenizer_with(marks if control else (), (*THINK, *(() if control else marks)))
    thoughts = Thoughts(forms_of("<think>", ()), MarkText(tokenizer, marks), marks[0])
    text = text_of(tokenizer, pieces, thoughts.shown)
    said = read_everywhere(
        lambda: Choice(ReasoningSplitter(thoughts, calls=calls), FormParser(HERMES, {"f": {}} if calls else {})), text
    )
    assert (said.reasoning, len(said.calls)) == (reasoning, num_calls)


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.STOP_STRING])
def test_a_thought_that_is_cut_is_a_thought(reason: FinishReason) -> None:
    said = FAMILIES["cohere"].model.says("<|START_THINKING|>", "2+", reason=reason)
    assert (said.reasoning, said.content) == ("2+", "")
    assert said.finish == ("length" if reason is FinishReason.LENGTH else "stop")


@pytest.mark.parametrize("name", ["<thinking_budget>", "<|im_start|>", "<rethink", "< think>"])
def test_what_is_no_mark(name: str) -> None:
    said = Model(name).says("<think>a</think>b")
    assert (said.reasoning, said.content) == ("", "<think>a</think>b")
