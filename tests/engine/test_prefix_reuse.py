"""Prefix reuse beside slots: the same answers, fewer tokens computed, and nothing across salts or after poison."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from handler.runners.slots.runner import SlotRunner
from handler.seam.protocol import ErrorCode
from tests.support import tiny_models
from tests.support.local_engine import LocalEngine, limits, loaded

PAGE = 8
SYSTEM = [(7 * i + 3) % 250 for i in range(50)]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., LocalEngine]]:
    engines: list[LocalEngine] = []

    def build(model: Any = None, num_stored_pages: int = 64, **changes: int) -> LocalEngine:
        directory = tmp_path / str(len(engines))
        directory.mkdir()
        bounds = limits(page_size=PAGE, num_stored_pages=num_stored_pages, **changes)
        runner = SlotRunner(
            loaded(model or tiny_models.build("llama")),
            bounds.max_num_seqs,
            bounds.max_model_len,
            bounds.num_stored_pages,
            bounds.page_size,
        )
        runner.prove()
        engines.append(LocalEngine(runner, bounds, directory))
        return engines[-1]

    yield build
    for engine in engines:
        engine.core.scheduler.check_integrity()
        engine.close()


def answers(engine: LocalEngine, prompts: list[list[int]], **sampling: Any) -> list[list[int]]:
    found = []
    for prompt in prompts:
        found.append(engine.submit(prompt, max_tokens=10, **sampling))
        engine.run()
    return [outcome.token_ids for outcome in found]


PROMPTS = [[*SYSTEM, i, i + 1, i + 2] for i in range(6)] + [SYSTEM[:20], SYSTEM, SYSTEM + [5] * 40, [9] * 30]


def test_answers_are_those_without_reuse(make: Callable[..., LocalEngine]) -> None:
    engine = make()
    expected = answers(make(num_stored_pages=0), PROMPTS)
    assert answers(engine, PROMPTS) == expected
    assert answers(engine, PROMPTS) == expected
    together = [engine.submit(prompt, max_tokens=10) for prompt in PROMPTS]
    engine.run()
    assert [outcome.token_ids for outcome in together] == expected
    assert engine.core.scheduler.kv.prefix_hit_tokens > 0


def test_a_repeated_prompt_is_not_computed_again(make: Callable[..., LocalEngine]) -> None:
    engine = make()
    answers(engine, [SYSTEM])
    computed = engine.core.board["prompt_tokens"]
    second = engine.submit(SYSTEM, max_tokens=10)
    engine.run()
    assert second.num_cached_tokens == 48, "six full pages of 50 tokens"
    assert engine.core.board["prompt_tokens"] - computed == 2


def test_a_conversation_goes_on_from_its_own_answer(make: Callable[..., LocalEngine]) -> None:
    engine = make()
    first = engine.submit(SYSTEM, max_tokens=30)
    engine.run()
    follow_up = engine.submit(SYSTEM + first.token_ids + [1, 2, 3], max_tokens=4)
    engine.run()
    assert follow_up.num_cached_tokens >= 72


def test_salt_and_opt_out_keep_requests_apart(make: Callable[..., LocalEngine]) -> None:
    engine = make()
    expected = answers(engine, [SYSTEM])
    for options in ({"cache_salt": "other"}, {"reuse_prefix": False}):
        outcome = engine.submit(SYSTEM, max_tokens=10, **options)
        engine.run()
        assert outcome.num_cached_tokens == 0
        assert outcome.token_ids == expected[0]
    again = engine.submit(SYSTEM, max_tokens=10, cache_salt="other")
    engine.run()
    assert again.num_cached_tokens == 48


def test_a_small_store_gives_up_the_oldest(make: Callable[..., LocalEngine]) -> None:
    engine = make(num_stored_pages=8)
    prompts = [[k] * 40 for k in range(1, 5)]
    expected = answers(make(num_stored_pages=0), prompts)
    for _ in range(3):
        assert answers(engine, prompts) == expected


def test_preempted_sequences_come_back_through_the_store(make: Callable[..., LocalEngine]) -> None:
    prompts = [[*SYSTEM, i] for i in range(5)]
    expected = list(answers(make(num_stored_pages=0), prompts))
    engine = make(capacity_tokens=256)
    outcomes = [engine.submit(prompt, max_tokens=10) for prompt in prompts]
    engine.run()
    assert [outcome.token_ids for outcome in outcomes] == expected


def test_poison_is_not_stored(make: Callable[..., LocalEngine]) -> None:
    """The NaN appears once, in the middle of a long prompt, and must not come back from the store."""
    model = tiny_models.build("llama")
    expected = answers(make(tiny_models.build("llama"), num_stored_pages=0), [SYSTEM])
    engine = make(model)
    weight = model.get_input_embeddings().weight.data
    kept = weight[SYSTEM[20]].clone()
    weight[SYSTEM[20]] = float("nan")
    poisoned = engine.submit(SYSTEM, max_tokens=10)
    engine.run()
    assert poisoned.error is not None
    assert poisoned.error.code is ErrorCode.NUMERICS
    weight[SYSTEM[20]] = kept
    assert answers(engine, [SYSTEM, SYSTEM]) == expected * 2
