"""Harmony: channels become reasoning, content and calls, wherever the text is cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from llguidance import LLMatcher

from container.api.openai.choice import Choice
from container.api.openai.harmony import HarmonyMarks, HarmonyReader, harmony_grammar
from container.api.openai.harmony.marks import ALL
from container.api.openai.tools import Function, ToolUse
from container.errors import InvalidRequest
from container.text.tokenizer import Tokenizer
from handler.sampling.grammar import GrammarCompiler
from handler.sampling.grammar_fault import sentence
from handler.seam.protocol import FinishReason, Grammar, GrammarKind
from tests.unit.openai.marked_answers import backend_with, read_everywhere, text_of, tokenizer_with

PROMPT = "<|start|>user<|message|>hi<|end|><|start|>assistant"
NAMES = frozenset(["weather", "a.b-c"])
THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>"
ROME = '{"city": "Rome"}'
TO_WEATHER = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"

SPECIAL = tokenizer_with(ALL)
PLAIN = tokenizer_with((), ALL)

# The prompt, what the model writes, and what the client gets: reasoning, content, calls.
CASES: dict[str, tuple[str, str | list[str], str, str | None, list[tuple[str, str]]]] = {
    "thought and answer": (PROMPT, f"{THOUGHT}{FINAL}Hello", "Hm.", "Hello", []),
    "ended by a mark": (PROMPT, f"{THOUGHT}{FINAL}Hello<|return|>", "Hm.", "Hello", []),
    "no thought": (PROMPT, f"{FINAL}Hello\n", "", "Hello\n", []),
    "two thoughts": (PROMPT, f"{THOUGHT}{THOUGHT}{FINAL}x", "Hm.\nHm.", "x", []),
    "call": (PROMPT, f"{THOUGHT}{TO_WEATHER}{ROME}", "Hm.", None, [("weather", ROME)]),
    "call, ended": (PROMPT, f"{TO_WEATHER}\n{ROME}\n<|call|>", "", None, [("weather", ROME)]),
    "recipient beside the role": (
        PROMPT, f" to=functions.weather<|channel|>commentary json<|message|>{ROME}", "", None, [("weather", ROME)]
    ),
    "recipient beside the role, later": (
        PROMPT, f"{THOUGHT} to=functions.weather<|channel|>commentary <|constrain|>json<|message|>{ROME}",
        "Hm.", None, [("weather", ROME)],
    ),
    "no namespace, no type": (
        PROMPT, f"<|channel|>commentary to=weather<|message|>{ROME}", "", None, [("weather", ROME)]
    ),
    "a name with dots": (
        PROMPT, f"<|channel|>commentary to=functions.a.b-c<|constrain|>json<|message|>{ROME}",
        "", None, [("a.b-c", ROME)],
    ),
    "call among the thoughts": (
        PROMPT, f"<|channel|>analysis to=functions.weather <|constrain|>json<|message|>{ROME}",
        "", None, [("weather", ROME)],
    ),
    "no arguments": (PROMPT, TO_WEATHER, "", None, [("weather", "{}")]),
    "control characters": (PROMPT, f'{TO_WEATHER}{{"city": "a\nb"}}', "", None, [("weather", '{"city": "a\\nb"}')]),
    "two calls": (
        PROMPT, f"{TO_WEATHER}{ROME}<|end|><|start|>assistant{TO_WEATHER}{ROME}<|call|>",
        "", None, [("weather", ROME)] * 2,
    ),
    "preamble": (
        PROMPT, f"{THOUGHT}<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{TO_WEATHER}{ROME}",
        "Hm.", "I look.", [("weather", ROME)],
    ),
    "preamble and answer": (
        PROMPT, f"<|channel|>commentary<|message|>First.<|end|><|start|>assistant{FINAL}Then.", "", "First.\nThen.", []
    ),
    "a function nobody named": (
        PROMPT, f"<|channel|>commentary to=functions.other<|message|>{ROME}", "", ROME, []
    ),
    "a tool of its own": (PROMPT, "<|channel|>analysis to=python<|message|>1+1<|call|>", "1+1", "", []),
    # Marks out of place
    "no channel": (PROMPT, "<|message|>Hello", "", "Hello", []),
    "no marks": (PROMPT, "Hello there", "", "Hello there", []),
    "no marks, one word": (PROMPT, "to", "", "to", []),
    "no start": (PROMPT, f"<|channel|>analysis<|message|>Hm.<|end|>{FINAL}x", "Hm.", "x", []),
    "no end": (PROMPT, f"<|channel|>analysis<|message|>Hm.<|start|>assistant{FINAL}x", "Hm.", "x", []),
    "neither": (PROMPT, f"<|channel|>analysis<|message|>Hm.{FINAL}x", "Hm.", "x", []),
    "text between messages": (PROMPT, f"{FINAL}a<|end|> so it is", "", "a\n so it is", []),
    "a long header": (PROMPT, f"<|channel|>{'x' * 600}", "", f"<|channel|>{'x' * 600}", []),
    "marks in a body": (PROMPT, f"{FINAL}a<|constrain|>b<|message|>c", "", "abc", []),
    # What the prompt has begun
    "continued": (f"{PROMPT}{FINAL}Hel", "lo <|end|>", "", "lo ", []),
    "continued thought": (
        f"{PROMPT}<|channel|>analysis<|message|>H", f"m.<|end|><|start|>assistant{FINAL}x", "m.", "x", []
    ),
    "continued header": (f"{PROMPT}<|channel|>", "analysis<|message|>Hm.", "Hm.", "", []),
    "no generation prompt": ("<|start|>user<|message|>hi<|end|>", f"<|start|>assistant{FINAL}x", "", "x", []),
    # Cut
    "cut thought": (PROMPT, "<|channel|>analysis<|message|>Hm", "Hm", "", []),
    "cut header": (PROMPT, f"{THOUGHT}<|channel|>commentary to=functions.wea", "Hm.", "", []),
    "cut role": (PROMPT, f"{FINAL}x<|end|><|start|>assis", "", "x", []),
    "cut recipient": (PROMPT, " to=functions.wea", "", "", []),
    "cut arguments": (PROMPT, TO_WEATHER + '{"city": "Ro', "", None, [("weather", '{"city": "Ro')]),
}  # fmt: skip


@pytest.mark.parametrize("vocabulary", [SPECIAL, PLAIN], ids=["control tokens", "added tokens"])
@pytest.mark.parametrize(("prompt", "answer", "reasoning", "content", "calls"), CASES.values(), ids=CASES.keys())
def test_what_the_client_gets(
    vocabulary: Tokenizer, prompt: str, answer: str, reasoning: str, content: str | None, calls: list[tuple[str, str]]
) -> None:
    marks = HarmonyMarks(vocabulary)
    text = text_of(vocabulary, [answer], marks.shown)
    said = read_everywhere(lambda: Choice(None, HarmonyReader(marks, NAMES, prompt)), text)
    assert (said.reasoning, said.content, said.calls) == (reasoning, content, calls)
    assert said.finish == ("tool_calls" if calls else "stop")


def test_letters_are_no_marks() -> None:
    marks = HarmonyMarks(SPECIAL)
    text = text_of(SPECIAL, [f"{FINAL}A message ends with <|en", "d|>, a call with <|ca", "ll|>."], marks.shown)
    said = read_everywhere(lambda: Choice(None, HarmonyReader(marks, NAMES, PROMPT)), text)
    assert said.content == "A message ends with <|end|>, a call with <|call|>."


def test_letters_behind_a_sign_are_no_marks() -> None:
    marks = HarmonyMarks(SPECIAL)
    text = text_of(SPECIAL, [f"{FINAL}It writes \ufdd0<|en", "d|>\ufdd0<|sta", "rt|>."], marks.shown)
    said = read_everywhere(lambda: Choice(None, HarmonyReader(marks, NAMES, PROMPT)), text)
    assert said.content == "It writes \ufffd<|end|>\ufffd<|start|>."


def test_a_cut_answer_says_so() -> None:
    marks = HarmonyMarks(SPECIAL)
    text = text_of(SPECIAL, [TO_WEATHER + '{"city'], marks.shown)
    said = read_everywhere(lambda: Choice(None, HarmonyReader(marks, NAMES, PROMPT)), text, FinishReason.LENGTH)
    assert (said.finish, said.calls) == ("length", [("weather", '{"city')])


CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = Function("weather", "", CITY, strict=True)
NOW = Function("now", "", {"type": "object"}, strict=False)
SCHEMA = Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object", "properties": {"n": {"type": "integer"}}}')
REGEX = Grammar(GrammarKind.REGEX, r"[0-9]+\s*/\s*[0-9]+\/2")
CHOICE = Grammar(GrammarKind.LARK, 'start: "yes" | "no"')
NESTED = Grammar(GrammarKind.LARK, '%llguidance {}\nstart: r0\nr0: "{" r0 "}" | "x"\n')
COMPACT = Grammar(GrammarKind.LARK, 'start: %json {"type": "object", "x-guidance": {"whitespace_flexible": false}}')
FREE = ToolUse((WEATHER, NOW), (), parallel=True)
FORCED = ToolUse((WEATHER, NOW), (WEATHER,), parallel=True)
ONE = ToolUse((WEATHER, NOW), (WEATHER,), parallel=False)
NEXT = "<|end|><|start|>assistant"
PREAMBLE = f"<|channel|>commentary<|message|>I look.{NEXT}"
# A constraint, where the prompt ends, an answer, and whether the grammar allows it.
ALLOWED: list[tuple[Grammar | None, ToolUse | None, str, str, bool]] = [
    (SCHEMA, None, PROMPT, f'{FINAL}{{"n": 1}}', True),
    (SCHEMA, None, PROMPT, f'{THOUGHT}{THOUGHT}{FINAL}{{"n": 1}}', True),
    (SCHEMA, None, PROMPT, f'{PREAMBLE}{FINAL}{{"n": 1}}', False),
    (SCHEMA, None, PROMPT, '{"n": 1}', False),
    (SCHEMA, None, PROMPT, f'{FINAL}{{"n": "1"}}', False),
    (SCHEMA, None, f"{PROMPT}{FINAL}", '{"n": 1}', True),
    (SCHEMA, None, f"{PROMPT}<|channel|>analysis<|message|>Hm", f'm.{NEXT}{FINAL}{{"n": 1}}', True),
    (SCHEMA, None, "<|start|>user<|message|>hi<|end|>", f'<|start|>assistant{FINAL}{{"n": 1}}', True),
    (REGEX, None, PROMPT, f"{FINAL}1 / 2/2", True),
    (REGEX, None, PROMPT, f"{FINAL}1 / 2/3", False),
    (CHOICE, None, PROMPT, f"{THOUGHT}{FINAL}yes", True),
    (CHOICE, None, PROMPT, f"{THOUGHT}{FINAL}maybe", False),
    (NESTED, None, PROMPT, f"{FINAL}{{{{x}}}}", True),
    (NESTED, None, PROMPT, f"{FINAL}{{{{x}}", False),
    (NESTED, FREE, PROMPT, f"{THOUGHT}{TO_WEATHER}{ROME}", True),
    (COMPACT, None, PROMPT, f'{FINAL}{{"n":1}}', True),
    (COMPACT, None, PROMPT, f'{FINAL}{{"n": 1}}', False),
    (None, FORCED, PROMPT, f"{THOUGHT}{TO_WEATHER}{ROME}", True),
    (None, FORCED, PROMPT, f" to=functions.weather<|channel|>commentary json<|message|>{ROME}", True),
    (None, FORCED, PROMPT, f"{TO_WEATHER}{ROME}{NEXT}{TO_WEATHER}{ROME}", True),
    (None, ONE, PROMPT, f"{TO_WEATHER}{ROME}{NEXT}{TO_WEATHER}{ROME}", False),
    (None, FORCED, PROMPT, f"{FINAL}no", False),
    (None, FORCED, PROMPT, "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}", False),
    (None, FORCED, PROMPT, f"{TO_WEATHER}{{}}", False),
    (None, FREE, PROMPT, f"{THOUGHT}{PREAMBLE}{TO_WEATHER}{ROME}", True),
    (None, FREE, PROMPT, f"{TO_WEATHER}{{}}", False),
    (None, FREE, PROMPT, '<|channel|>commentary to=functions.now <|constrain|>json<|message|>{"any": 1}', True),
    (None, FREE, PROMPT, f"{THOUGHT}{FINAL}Any text.", True),
    (SCHEMA, FREE, PROMPT, f"{THOUGHT}{TO_WEATHER}{ROME}", True),
    (SCHEMA, FREE, PROMPT, f'{THOUGHT}{FINAL}{{"n": 1}}', True),
    (SCHEMA, FREE, PROMPT, f"{THOUGHT}{FINAL}text", False),
]


@pytest.fixture(scope="module")
def accepts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Grammar, str], bool]:
    """Whether a grammar allows an answer, token by token, and then its end."""
    backend = backend_with((*ALL, "<eos>"))
    path = tmp_path_factory.mktemp("harmony") / "tokenizer.json"
    backend.save(str(path))
    eos_id = backend.token_to_id("<eos>")
    compiler = GrammarCompiler(path, backend.get_vocab_size(), [eos_id])

    def check(grammar: Grammar, answer: str) -> bool:
        constraint = compiler.submit(grammar).result()
        ids = backend.encode(answer, add_special_tokens=False).ids
        for i, token_id in enumerate(ids):
            if not constraint.mask()[token_id]:
                return False
            if constraint.accept(token_id):
                return i == len(ids) - 1
        return bool(constraint.mask()[eos_id])

    return check


@pytest.mark.parametrize(("answer", "use", "prompt", "text", "fits"), ALLOWED)
def test_constrained_answers(
    accepts: Callable[[Grammar, str], bool],
    answer: Grammar | None,
    use: ToolUse | None,
    prompt: str,
    text: str,
    fits: bool,
) -> None:
    grammar = harmony_grammar(answer, use, prompt, SPECIAL.marker_token_id)
    assert grammar is not None
    assert accepts(grammar, text) == fits


def test_what_is_not_constrained_has_no_grammar() -> None:
    free = ToolUse((NOW,), (), parallel=True)
    assert harmony_grammar(None, None, PROMPT, SPECIAL.marker_token_id) is None
    assert harmony_grammar(None, free, PROMPT, SPECIAL.marker_token_id) is None


def test_what_cannot_be_constrained_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        harmony_grammar(None, FREE, PROMPT + FINAL, SPECIAL.marker_token_id)


@pytest.mark.parametrize("use", [None, FREE])
def test_a_fault_is_at_the_constraints_place(use: ToolUse | None) -> None:
    regex = Grammar(GrammarKind.REGEX, "(a", {"": "guided_regex"})
    lark = Grammar(GrammarKind.LARK, "start: r\nr: nobody", {"": "ebnf"})
    for answer in (regex, lark):
        found = harmony_grammar(answer, use, PROMPT, SPECIAL.marker_token_id)
        assert found is not None
        error = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(found.source))
        assert sentence(found, error).startswith(f"`{answer.places['']}` is not valid: ")
