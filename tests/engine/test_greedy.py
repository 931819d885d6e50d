"""Greedy tokens equal those of stock `generate` under any chunking, preemption and reuse of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support import stock, tiny_models
from tests.support.local_engine import LocalEngine

pytestmark = pytest.mark.usefixtures("several_threads")

MakeEngine = Callable[..., LocalEngine]

PROMPTS = [
    [5, 9, 17, 33, 41, 50, 7],
    [8, 3, 22],
    [100],
    [(11 * i + 5) % 250 for i in range(90)],
    [(7 * i + 2) % 250 for i in range(33)],
    [(3 * i + 1) % 250 for i in range(64)],
]
NUM_TOKENS = 16


def reference(model: Any, prompt: list[int], num_tokens: int = NUM_TOKENS) -> list[int]:
    return stock.greedy(model, prompt, num_tokens)


def test_sequences_of_different_length_leave_and_their_slots_are_reused(make_engine: MakeEngine, llama: Any) -> None:
    expected = [reference(llama, prompt, 20) for prompt in PROMPTS]
    engine = make_engine(tiny_models.build("llama"), max_num_seqs=2)
    outcomes = [engine.submit(p, max_tokens=4 + 3 * i) for i, p in enumerate(PROMPTS)]
    engine.run()
    for i, outcome in enumerate(outcomes):
        assert outcome.token_ids == expected[i][: 4 + 3 * i]


@pytest.mark.parametrize("budget", [1, 5, 16, 200])
def test_prompt_chunks_of_any_size_change_nothing(budget: int, make_engine: MakeEngine, llama: Any) -> None:
    expected = [reference(llama, prompt) for prompt in PROMPTS]
    engine = make_engine(tiny_models.build("llama"), max_num_batched_tokens=budget)
    outcomes = [engine.submit(prompt, max_tokens=NUM_TOKENS) for prompt in PROMPTS]
    engine.run()
    assert [outcome.token_ids for outcome in outcomes] == expected


def test_preemption_is_invisible(make_engine: MakeEngine, llama: Any) -> None:
    expected = [reference(llama, prompt, 60) for prompt in PROMPTS]
    engine = make_engine(tiny_models.build("llama"), capacity_tokens=256, max_model_len=256)
    outcomes = [engine.submit(prompt, max_tokens=60) for prompt in PROMPTS]
    engine.run()
    assert engine.core.scheduler.num_preemptions > 0, "memory must have been short for this test to mean anything"
    assert [outcome.token_ids for outcome in outcomes] == expected


def test_sixty_four_sequences_run_at_once(make_engine: MakeEngine, llama: Any) -> None:
    prompts = [[(i * 7 + j) % 250 for j in range(2 + i % 9)] for i in range(64)]
    engine = make_engine(tiny_models.build("llama"), max_num_seqs=64, max_num_batched_tokens=512)
    outcomes = [engine.submit(prompt, max_tokens=6) for prompt in prompts]
    engine.step()
    engine.step()
    assert len(engine.core.scheduler.running) == 64
    engine.run()
    assert [outcome.token_ids for outcome in outcomes] == [reference(llama, prompt, 6) for prompt in prompts]


def test_holes_between_slots(make_engine: MakeEngine, llama: Any) -> None:
    """Every second sequence ends early, so that the decoding slots are scattered."""
    prompts = [[(i * 13 + j) % 250 for j in range(5 + i)] for i in range(16)]
    engine = make_engine(tiny_models.build("llama"), max_num_seqs=16, max_num_batched_tokens=512)
    outcomes = [engine.submit(p, max_tokens=3 if i % 2 else 15) for i, p in enumerate(prompts)]
    engine.run()
    for i, outcome in enumerate(outcomes):
        assert outcome.token_ids == reference(llama, prompts[i], 15)[: 3 if i % 2 else 15]
