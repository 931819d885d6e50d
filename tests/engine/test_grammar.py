"""Constrained decoding on a tiny random model: without the constraint it would produce noise."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from handler.runners.slots.runner import SlotRunner
from handler.sampling.grammar import GrammarCompiler
from handler.seam.protocol import ErrorCode, FinishReason, Grammar, GrammarKind
from tests.support import tiny_models
from tests.support.local_engine import LocalEngine, limits, loaded

PROMPT = [5, 9, 17, 33]


@pytest.fixture
def engine(tmp_path: Path, tiny_llama: Path) -> Iterator[LocalEngine]:
    model = tiny_models.build("llama")
    runner = SlotRunner(loaded(model, frozenset({tiny_models.EOS_ID})), 8, 256)
    runner.prove()
    grammars = GrammarCompiler(tiny_llama / "tokenizer.json", tiny_models.VOCAB_SIZE, {tiny_models.EOS_ID})
    engine = LocalEngine(runner, limits(), tmp_path, grammars=grammars)
    yield engine
    engine.core.scheduler.check_integrity()
    engine.close()


@pytest.fixture
def text(tiny_llama: Path) -> Callable[[list[int]], str]:
    tokenizer = Tokenizer.from_file(str(tiny_llama / "tokenizer.json"))
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=True)


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_json_schema_holds(engine: LocalEngine, text: Any, temperature: float) -> None:
    grammar = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))
    outcomes = [
        engine.submit(PROMPT, max_tokens=120, temperature=temperature, seed=i, grammar=grammar) for i in range(4)
    ]
    free = engine.submit(PROMPT, max_tokens=20)
    engine.run()
    for outcome in outcomes:
        assert outcome.finish_reason is FinishReason.EOS
        found = json.loads(text(outcome.token_ids))
        assert set(found) == {"name", "age"}
        assert 0 <= found["age"] <= 9
        assert len(found["name"]) <= 8
    assert len(free.token_ids) == 20


def test_a_neighbour_without_grammar_is_not_touched(engine: LocalEngine) -> None:
    alone = engine.submit(PROMPT, max_tokens=12)
    engine.run()
    engine.submit(PROMPT, max_tokens=12, grammar=Grammar(GrammarKind.REGEX, "[ab]{30}"))
    beside = engine.submit(PROMPT, max_tokens=12)
    engine.run()
    assert beside.token_ids == alone.token_ids


def test_a_regex_holds_and_ends(engine: LocalEngine, text: Any) -> None:
    pattern = r"(yes|no), [0-9]{3}!"
    outcome = engine.submit(PROMPT, max_tokens=50, temperature=1.0, grammar=Grammar(GrammarKind.REGEX, pattern))
    engine.run()
    assert re.fullmatch(pattern, text(outcome.token_ids))
    assert outcome.finish_reason is FinishReason.EOS


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("grammar", "only"),
    [
        (Grammar(GrammarKind.JSON_SCHEMA, '{"enum": ["x"]}'), '"x"'),
        (Grammar(GrammarKind.JSON_SCHEMA, '{"const": ""}'), '""'),
        (Grammar(GrammarKind.JSON_SCHEMA, '{"const": null}'), "null"),
        (Grammar(GrammarKind.REGEX, "yes"), "yes"),
        (Grammar(GrammarKind.REGEX, ""), ""),
        (Grammar(GrammarKind.LARK, 'start: "(" "é" ")"'), "(é)"),
    ],
)
def test_a_single_text_is_written_and_ends(
    engine: LocalEngine, text: Any, grammar: Grammar, only: str, temperature: float
) -> None:
    outcome = engine.submit(PROMPT, max_tokens=20, temperature=temperature, grammar=grammar, num_logprobs=3)
    engine.run()
    assert (text(outcome.token_ids), outcome.finish_reason) == (only, FinishReason.EOS)
    assert len(outcome.logprobs) == len(outcome.token_ids)
    assert all(math.isfinite(entry.logprob) and len(entry.top) == 3 for entry in outcome.logprobs)


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar(GrammarKind.REGEX, "(a+"),
        Grammar(GrammarKind.JSON_SCHEMA, '{"type": "objekt"}'),
        Grammar(GrammarKind.JSON_SCHEMA, "not json"),
        Grammar(GrammarKind.LARK, "start: nowhere"),
        Grammar(GrammarKind.REGEX, "a" * 70_000),
    ],
)
def test_a_bad_grammar_is_rejected_alone(engine: LocalEngine, grammar: Grammar) -> None:
    bad = engine.submit(PROMPT, grammar=grammar)
    good = engine.submit(PROMPT, max_tokens=5)
    engine.run()
    assert bad.error is not None
    assert bad.error.code is ErrorCode.INVALID
    assert "\n" not in bad.error.message
    assert len(good.token_ids) == 5


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"$ref": "#"}, "no text fits it"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "the branches of `oneOf` overlap"),
    ],
)
def test_a_refusal_speaks_of_the_schema(engine: LocalEngine, schema: Any, reason: str) -> None:
    bad = engine.submit(PROMPT, grammar=Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema)))
    engine.run()
    assert bad.error is not None
    assert bad.error.code is ErrorCode.INVALID
    assert bad.error.message.startswith(f"grammar is not valid: {reason}")
    assert not bad.token_ids


def test_a_grammar_survives_preemption(tmp_path: Path, tiny_llama: Path, text: Any) -> None:
    runner = SlotRunner(loaded(tiny_models.build("llama"), frozenset({tiny_models.EOS_ID})), 8, 256)
    runner.prove()
    grammars = GrammarCompiler(tiny_llama / "tokenizer.json", tiny_models.VOCAB_SIZE, {tiny_models.EOS_ID})
    engine = LocalEngine(runner, limits(capacity_tokens=256), tmp_path, grammars=grammars)
    pattern = "([a-z]{5} ){15}"
    outcomes = [
        engine.submit([i] * 20, max_tokens=120, temperature=1.0, seed=i, grammar=Grammar(GrammarKind.REGEX, pattern))
        for i in range(4)
    ]
    engine.run()
    assert engine.core.scheduler.num_preemptions > 0
    assert all(re.fullmatch(pattern, text(outcome.token_ids)) for outcome in outcomes)
    engine.close()


def test_abort_while_compiling(engine: LocalEngine) -> None:
    doomed = engine.submit(PROMPT, grammar=Grammar(GrammarKind.REGEX, "[a-z]{40}"))
    engine.abort(doomed)
    for _ in range(5):
        engine.step()
    assert not doomed.done
    assert engine.core.scheduler.idle
    assert engine.core.intake.pending == 0


def test_prompt_logprobs(engine: LocalEngine) -> None:
    import torch

    prompt = [(7 * i) % 250 for i in range(100)]  # two chunks of the budget
    outcome = engine.submit(prompt, max_tokens=2, num_prompt_logprobs=1, num_logprobs=0)
    engine.run()
    with torch.no_grad():
        logits = tiny_models.build("llama")(torch.tensor([prompt]), use_cache=False).logits[0]
    expected = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]
    assert len(outcome.prompt_logprobs) == len(prompt) - 1
    assert [entry.logprob for entry in outcome.prompt_logprobs] == pytest.approx(expected.tolist(), abs=1e-4)
    assert all(len(entry.top) == 1 for entry in outcome.prompt_logprobs)


class PanicException(BaseException):
    """As pyo3 raises it: no Exception, so that nobody catches it by accident."""


@pytest.mark.parametrize("error", [PanicException("called `Option::unwrap()`"), RuntimeError("not enough threads")])
@pytest.mark.parametrize("place", ["LLMatcher", "fill_next_token_bitmask"])
def test_a_panic_of_the_library_is_the_requests_own(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, place: str, error: BaseException
) -> None:
    from handler.sampling import grammar

    class Panics:
        grammar_from_regex = staticmethod(grammar.LLMatcher.grammar_from_regex)

        def __init__(self, *_: Any, **__: Any) -> None:
            raise error

    monkeypatch.setattr(grammar, place, Panics)
    free = engine.submit(PROMPT, max_tokens=6)
    held = engine.submit(PROMPT, max_tokens=6, grammar=Grammar(GrammarKind.REGEX, "[ab]+"))
    engine.run()
    assert held.error is not None
    assert held.error.code in {ErrorCode.INVALID, ErrorCode.INTERNAL}
    assert "the grammar cannot go on" in held.error.message or "grammar is not valid" in held.error.message
    assert len(free.token_ids) == 6
