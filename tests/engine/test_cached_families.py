"""Families that run over transformers' own cache: greedy tokens equal `generate`, alone, batched and joining."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from handler.cache_runner import CacheRunner
from handler.errors import UnsupportedModel
from handler.model_runner import ModelRunner
from tests.support import tiny_models
from tests.support.local_engine import LocalEngine, limits, loaded

PROMPTS = [[5, 9, 17, 33, 41, 50, 7], [8, 3], [(11 * i + 5) % 250 for i in range(23)]]
NUM_TOKENS = 6


@torch.no_grad()
def reference(model: Any, prompt: list[int]) -> list[int]:
    """Greedy by running the whole text anew for each token: no cache, so nothing a cache can get wrong."""
    ids = list(prompt)
    for _ in range(NUM_TOKENS):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("family", list(tiny_models.CACHED_FAMILIES))
def test_alone_batched_and_joining(family: str, tmp_path: Path) -> None:
    model = tiny_models.build(family)
    expected = [reference(model, prompt) for prompt in PROMPTS]
    found = loaded(model)
    own_attention = model.config._attn_implementation
    with pytest.raises(UnsupportedModel):
        ModelRunner(found, 2, 64).probe()
    model.set_attn_implementation(own_attention)
    runner = CacheRunner(found, 128)
    runner.probe()
    engine = LocalEngine(runner, limits(max_model_len=128, max_num_batched_tokens=16), tmp_path)

    for prompt, tokens in zip(PROMPTS, expected, strict=True):
        alone = engine.submit(prompt, max_tokens=NUM_TOKENS)
        engine.run()
        assert alone.token_ids == tokens
    together = [engine.submit(prompt, max_tokens=NUM_TOKENS) for prompt in PROMPTS]
    engine.run()
    assert [outcome.token_ids for outcome in together] == expected
    joining = []
    for prompt in PROMPTS:
        joining.append(engine.submit(prompt, max_tokens=NUM_TOKENS))
        engine.step()
    engine.run()
    assert [outcome.token_ids for outcome in joining] == expected
    engine.close()
