"""Forced calls of every family, drawn at random from their grammar alone: each parses, and its arguments fit."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import jsonschema_rs
import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from container.api.openai.call_grammar import MarkIds, forced_calls, text_with_calls
from container.api.openai.parts import CallArguments, CallStart, Part
from container.api.openai.tool_parsers import FORMS, PLAIN, Form, FormParser
from container.api.openai.tool_parsers.form import Arguments
from container.api.openai.tools import Function, ToolUse
from tests.support.call_forms import WIRES
from tests.support.random_schemas import random_object
from tests.support.tiny_models import EOS_ID, VOCAB_SIZE, write_tokenizer

CASES = int(os.environ.get("GRAMMAR_CASES", "10"))
MAX_TOKENS = 20_000
NO_IDS = MarkIds(lambda _mark: None, lambda _mark: None)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> LLTokenizer:
    directory = tmp_path_factory.mktemp("walk")
    write_tokenizer(directory)
    return LLTokenizer((Path(directory) / "tokenizer.json").read_text(), n_vocab=VOCAB_SIZE, eos_token=EOS_ID)


def walk(tokenizer: LLTokenizer, source: str, rng: random.Random) -> str:
    """A text of the grammar, each token drawn from those that are allowed."""
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(source))
    assert not matcher.is_error(), matcher.get_error()
    bits = allocate_token_bitmask(1, VOCAB_SIZE)
    found = b""
    for _ in range(MAX_TOKENS):
        fill_next_token_bitmask(matcher, bits, 0)
        allowed = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")[:VOCAB_SIZE]).tolist()
        assert allowed, matcher.get_error()
        token_id = EOS_ID if EOS_ID in allowed and rng.random() < 0.5 else rng.choice(allowed)
        assert matcher.consume_token(token_id)
        if token_id == EOS_ID or matcher.is_stopped():
            return found.decode() + ("" if token_id == EOS_ID else tokenizer.decode_bytes([token_id]).decode())
        found += tokenizer.decode_bytes([token_id])
    raise AssertionError(f"no end: {found[-200:]!r}")


def calls_in(form: Form, text: str, functions: tuple[Function, ...]) -> list[tuple[str, str]]:
    parser = FormParser(form, {function.name: function.parameters for function in functions})
    parts: list[Part] = [*parser.push(text), *parser.flush()]
    calls: list[tuple[str, str]] = []
    for part in parts:
        match part:
            case CallStart(name):
                calls.append((name, ""))
            case CallArguments(fragment):
                calls[-1] = (calls[-1][0], calls[-1][1] + fragment)
            case _:
                raise AssertionError(f"text beside the calls: {part}")
    return calls


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("form", [*FORMS, PLAIN], ids=lambda form: form.name)
def test_every_text_of_the_grammar_is_calls_that_fit(tokenizer: LLTokenizer, form: Form) -> None:
    unquoted = form.tags is not None or form.arguments is Arguments.QUOTED
    for seed in range(CASES):
        rng = random.Random(seed)
        schemas = [random_object(rng, patterns=not unquoted) for _ in range(2)]
        functions = tuple(Function(f"f{i}", "", schema, True) for i, schema in enumerate(schemas))
        grammar = forced_calls(
            ToolUse(functions, functions, parallel=True), form, MarkIds(lambda _mark: None, lambda _mark: None)
        )
        text = walk(tokenizer, grammar.source, rng)
        calls = calls_in(form, text, functions)
        assert calls, (seed, text)
        for name, arguments in calls:
            found = json.loads(arguments)
            errors = list(jsonschema_rs.validator_for(schemas[int(name[1:])]).iter_errors(found))
            assert not errors, (seed, text, errors)


CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
CALLABLE = (Function("weather", "", CITY, True), Function("now", "", NUMBER, True))


@pytest.mark.parametrize("form", [*FORMS, PLAIN], ids=lambda form: form.name)
@pytest.mark.parametrize("forced", [True, False])
def test_the_grammar_takes_what_the_template_writes(tokenizer: LLTokenizer, form: Form, forced: bool) -> None:
    use = ToolUse(CALLABLE, CALLABLE if forced else (), parallel=True)
    grammar = forced_calls(use, form, NO_IDS) if forced else text_with_calls(use, form, NO_IDS)
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar.source))
    assert not matcher.is_error(), matcher.get_error()
    text = WIRES[form.name]
    for optional in (
        "<|python_start|>",
        "<|python_end|>",
        "<|python_tag|>",
        "<|message_model|>weather",
        "<|message_model|>now",
    ):
        text = text.replace(optional, "")
    ids = tokenizer.tokenize_str(text)
    assert matcher.validate_tokens([*ids, EOS_ID]) == len(ids) + 1, (text, matcher.validate_tokens(ids), grammar.source)
