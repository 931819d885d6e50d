"""Every family: the runner that start-up chooses says what stock `generate` says, alone and in every kind of batch.

`docs/models.md` is written from the same table; `python -m tests.support.models_table` writes it anew.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from handler.runners.dynamic_cache.runner import DynamicCacheRunner
from handler.runners.limits import bytes_per_token
from handler.runners.slots.runner import SlotRunner
from tests.support import models_table, stock, tiny_models
from tests.support.local_engine import LocalEngine, Outcome

# One token; shorter and longer than a window of 8; prompts that need several steps of 16 tokens.
PROMPTS = [
    [5, 9, 17, 33, 41, 50, 7],
    [100],
    [(11 * i + 5) % 250 for i in range(40)],
    [(7 * i + 2) % 250 for i in range(21)],
]
NUM_TOKENS = 7


def tokens(outcomes: list[Outcome]) -> list[list[int]]:
    return [outcome.token_ids for outcome in outcomes]


@pytest.mark.parametrize("family", tiny_models.ALL_FAMILIES)
def test_alone_batched_and_joining(family: str, start_engine: Callable[..., LocalEngine]) -> None:
    model = tiny_models.build(family)
    own_attention = model.config._attn_implementation
    expected = [stock.greedy(model, prompt, NUM_TOKENS) for prompt in PROMPTS]
    assert len({tuple(found) for found in expected}) == len(PROMPTS), "prompts must not all be answered alike"
    assert len({token for found in expected for token in found}) > NUM_TOKENS, "the model must not repeat itself"

    engine = start_engine(model)
    runner = engine.core.runner
    assert runner.name == ("slots" if family in tiny_models.FAMILIES else "dynamic_cache")
    if isinstance(runner, DynamicCacheRunner):
        assert model.config._attn_implementation == own_attention
        assert runner.continues == (family not in tiny_models.IN_ONE_PIECE)
        assert runner.merges == (family not in tiny_models.ONE_BY_ONE)
    counted = bytes_per_token(runner.loaded)
    if isinstance(runner, SlotRunner):
        taken = sum(each[0, 0].nbytes for layer in runner.cache._layers.values() for each in layer)
        assert taken <= counted, "the budget of tokens must not be more than memory holds"

    alone = []
    for prompt in PROMPTS:
        alone.append(engine.submit(prompt, max_tokens=NUM_TOKENS))
        engine.run()
    assert tokens(alone) == expected

    together = [engine.submit(prompt, max_tokens=NUM_TOKENS) for prompt in PROMPTS]
    engine.run()
    assert tokens(together) == expected

    joining = []
    for prompt in PROMPTS:
        joining.append(engine.submit(prompt, max_tokens=NUM_TOKENS))
        engine.step()
    assert joining[0].token_ids, "the first must be under way when the last one joins"
    assert not joining[0].done
    engine.run()
    assert tokens(joining) == expected


def test_the_committed_table_is_the_one_these_tests_prove() -> None:
    assert models_table.PATH.read_text() == models_table.render()
