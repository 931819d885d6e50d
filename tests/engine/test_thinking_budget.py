"""A thought's budget on a real engine: alone, in a batch, and under a grammar that allows a thought."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from handler.runners.slots.runner import SlotRunner
from handler.sampling.grammar import GrammarCompiler
from handler.seam.protocol import ErrorCode, Grammar, GrammarKind, ThinkingLimit
from tests.support import tiny_models
from tests.support.local_engine import LocalEngine, limits, loaded

PROMPT = [5, 9, 17, 33, 41, 50, 7]
BREAK, CLOSE = 10, 258
ENDING = (BREAK, CLOSE, BREAK)


def test_a_thought_ends_there_alone_and_in_a_batch(make_engine: Callable[..., LocalEngine], llama: Any) -> None:
    engine = make_engine(llama)
    free = engine.submit(PROMPT, max_tokens=12)
    engine.run()
    assert CLOSE not in free.token_ids
    wanted = [
        {"max_tokens": 12, "thinking": ThinkingLimit(budget, (), (CLOSE,), ENDING), "temperature": temperature}
        for budget in (0, 4)
        for temperature in (0.0, 1.0)
    ]
    alone = []
    for each in wanted:
        alone.append(engine.submit(PROMPT, **each))
        engine.run()
    crowded = [engine.submit(PROMPT, **each) for each in wanted]
    beside = engine.submit(PROMPT, max_tokens=12)
    engine.run()
    assert [each.token_ids for each in crowded] == [each.token_ids for each in alone]
    assert beside.token_ids == free.token_ids
    for each, found in zip(wanted, alone, strict=True):
        budget = each["thinking"].num_tokens
        assert tuple(found.token_ids[budget : budget + 3]) == ENDING
        assert len(found.token_ids) == 12
    assert alone[2].token_ids[:4] == free.token_ids[:4]


def test_a_grammar_with_room_for_a_thought(tmp_path: Path, tiny_llama: Path) -> None:
    """As strict functions have it: any text, the closing mark, then what must fit."""
    runner = SlotRunner(loaded(tiny_models.build("llama"), frozenset({tiny_models.EOS_ID})), 8, 256)
    grammars = GrammarCompiler(tiny_llama / "tokenizer.json", tiny_models.VOCAB_SIZE, {tiny_models.EOS_ID})
    engine = LocalEngine(runner, limits(), tmp_path, grammars=grammars)
    source = f'%llguidance {{}}\nstart: (THOUGHT <[{CLOSE}]>)? "\\n"? /[0-9]{{4}}/\nTHOUGHT: /(.|\\n)*/'
    (line,) = Tokenizer.from_file(str(tiny_llama / "tokenizer.json")).encode("\n").ids
    ending = (line, CLOSE, line)
    limit = ThinkingLimit(3, (), (CLOSE,), ending)
    found = engine.submit(PROMPT, grammar=Grammar(GrammarKind.LARK, source), thinking=limit, max_tokens=40)
    wrong = engine.submit(PROMPT, thinking=ThinkingLimit(3, (), (), (tiny_models.VOCAB_SIZE,)))
    engine.run()
    assert found.error is None, found.error
    assert tuple(found.token_ids[3:6]) == ending
    assert len(found.token_ids) == 10
    assert wrong.error is not None
    assert wrong.error.code is ErrorCode.INVALID
    engine.close()
