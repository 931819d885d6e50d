"""What the engine takes into its queue, what the choices of one request cost, and that it looks at its books."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handler.runners.slots.runner import SlotRunner
from handler.sampling.grammar import GrammarCompiler, TokenConstraint
from handler.seam.protocol import ErrorCode, Grammar, GrammarKind
from tests.support import tiny_models
from tests.support.local_engine import LocalEngine, limits, loaded

MakeEngine = Callable[..., LocalEngine]
PROMPT = [5, 9, 17, 33, 41, 50, 7]


def test_requests_whose_grammar_is_being_compiled_count_as_waiting(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They join the queue later, so a flood of them would make it as long as it likes."""
    go_on, compile_it = threading.Event(), GrammarCompiler._compile

    def slowly(self: GrammarCompiler, grammar: Grammar) -> TokenConstraint:
        assert go_on.wait(60)
        return compile_it(self, grammar)

    monkeypatch.setattr(GrammarCompiler, "_compile", slowly)
    runner = SlotRunner(loaded(tiny_models.build("llama")), 8, 256)
    runner.prove()
    grammars = GrammarCompiler(tiny_llama / "tokenizer.json", tiny_models.VOCAB_SIZE, {tiny_models.EOS_ID})
    engine = LocalEngine(runner, limits(max_num_seqs=1), tmp_path, max_waiting=3, grammars=grammars)
    held = [engine.submit(PROMPT, max_tokens=4, grammar=Grammar(GrammarKind.REGEX, "[ab]{9}")) for _ in range(8)]
    for _ in range(100):
        engine.step()
    assert engine.core.intake.pending == 3
    free = engine.submit(PROMPT, max_tokens=4)
    while not free.done:
        engine.step()
    go_on.set()
    engine.run()
    refused = [outcome.error for outcome in (*held, free) if outcome.error is not None]
    assert [error.code for error in refused] == [ErrorCode.OVERLOADED] * 6
    assert all(len(outcome.token_ids) == 4 for outcome in held if outcome.error is None)
    engine.close()


@pytest.mark.parametrize("stored", [0, 64])
def test_the_choices_of_one_request_compute_its_prompt_once(stored: int, make_engine: MakeEngine, llama: Any) -> None:
    """Beside slots the store is what they share it through; without one each computes its own."""
    prompt = [(7 * i + 3) % 250 for i in range(50)]
    engine = make_engine(llama, num_stored_pages=stored, page_size=8, max_num_batched_tokens=256)
    choices = [engine.submit(prompt, max_tokens=6, temperature=1.0, seed=seed) for seed in range(4)]
    engine.run()
    assert engine.core.board["prompt_tokens"] == (50 + 3 * 2 if stored else 4 * 50)
    assert [outcome.num_cached_tokens for outcome in choices] == ([0, 48, 48, 48] if stored else [0] * 4)
    alone = []
    for seed in range(4):
        alone.append(engine.submit(prompt, max_tokens=6, temperature=1.0, seed=seed, reuse_prefix=False))
        engine.run()
    assert [outcome.token_ids for outcome in choices] == [outcome.token_ids for outcome in alone]


def test_wrong_books_end_the_engine_when_work_runs_out(make_engine: MakeEngine, llama: Any) -> None:
    """They would give one request's keys to another. PID 1 starts an engine anew."""
    engine = make_engine(llama)
    engine.submit(PROMPT, max_tokens=3)
    while not engine.core.scheduler.running:
        engine.step()
    kv: Any = engine.core.scheduler.kv
    kv._used_pages += 1

    def run_out() -> None:
        for _ in range(10):
            engine.core.step(0.0)

    try:
        with pytest.raises(RuntimeError, match="pages allocated 0 but counted 1"):
            run_out()
    finally:
        kv._used_pages -= 1


def test_any_of_several_end_tokens_ends(make_engine: MakeEngine, llama: Any) -> None:
    probe = make_engine(llama)
    free = probe.submit(PROMPT, max_tokens=10)
    probe.run()
    ends = [token_id for i, token_id in enumerate(free.token_ids) if i > 1 and token_id not in free.token_ids[:i]][:2]
    engine = make_engine(llama, frozenset({*ends, 3}))
    places = [free.token_ids.index(token_id) + 1 for token_id in ends]
    first = engine.submit(PROMPT, max_tokens=10)
    # The first of them may not come yet; none of the others either.
    second = engine.submit(PROMPT, max_tokens=10, min_tokens=places[0], logit_bias={ends[0]: -100.0})
    engine.run()
    assert first.token_ids == free.token_ids[: places[0]]
    assert second.token_ids[: places[0] - 1] == free.token_ids[: places[0] - 1]
    assert second.token_ids[places[0] - 1] not in {*ends, 3}
