"""The bundled model as `make run` serves it: greedy answers and their log-probabilities to the last bit, alone, among
2 to 32 sequences, after preemption and with reused prefixes. docs/decisions/0007."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from handler.linears.choice import computes_blocks
from handler.linears.packed_linear import KERNEL, Kernel
from handler.model.gguf_model import bundled_gguf, converted
from handler.model.loader import LoadedModel, load
from handler.runners.limits import Limits
from handler.runners.slots.runner import SlotRunner
from handler.seam.config import EngineConfig
from tests.support.local_engine import LocalEngine, Outcome, limits

CACHE = Path(os.environ.get("CACHE_DIR") or Path.home() / ".cache" / "tgi-heir")
NUM_TOKENS = 6
Open = Callable[..., LocalEngine]


def prompt(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(100, 49_000) for _ in range(length)]


_RNG = random.Random(5)
PROMPTS = [prompt(_RNG, length) for length in (1, 7, 33, 60)]


@pytest.fixture(scope="module")
def bundled() -> LoadedModel:
    """The checkpoint in its default form; fused once, by the first runner over it."""
    directory = converted(bundled_gguf(), CACHE, lambda *_: None)
    config = EngineConfig(device="cpu", cache_dir=str(CACHE))
    return load(config, directory, lambda *_: None)


@pytest.fixture(scope="module")
def served(bundled: LoadedModel) -> Iterator[LoadedModel]:
    """The same, accelerated and proved as at a start; with DETERMINISTIC where two kernels would alternate."""
    from handler.kernels.compiler import use_cache_dir

    use_cache_dir(CACHE)
    with KERNEL.using(Kernel.BY_ROWS if computes_blocks(bundled.dtype) else Kernel.DENSE):
        runner = SlotRunner(bundled, 2, 64)
        runner.accelerate()
        runner.prove()
        yield bundled


@pytest.fixture
def start(served: LoadedModel, tmp_path: Path) -> Iterator[Open]:
    """Engines over it; the attention in its layers asks the step under way for the cache."""
    engines: list[LocalEngine] = []

    def make(**changes: int) -> LocalEngine:
        bounds: Limits = limits(**({"max_num_seqs": 33, "max_num_batched_tokens": 256} | changes))
        stored = (bounds.num_stored_pages, bounds.page_size)
        runner = SlotRunner(served, bounds.max_num_seqs, bounds.max_model_len, *stored)
        directory = tmp_path / str(len(engines))
        directory.mkdir()
        engines.append(LocalEngine(runner, bounds, directory))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def ask(engine: LocalEngine, token_ids: list[int], **options: Any) -> Outcome:
    return engine.submit(token_ids, max_tokens=NUM_TOKENS, num_logprobs=2, **options)


def said(outcomes: list[Outcome]) -> list[object]:
    """Tokens, and float32 log-probabilities without any rounding."""
    assert all(outcome.error is None for outcome in outcomes)
    return [(outcome.token_ids, outcome.logprobs) for outcome in outcomes]


@pytest.fixture(scope="module")
def alone(served: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    bounds = limits(max_num_seqs=1, max_num_batched_tokens=256)
    engine = LocalEngine(SlotRunner(served, 1, bounds.max_model_len), bounds, tmp_path_factory.mktemp("alone"))
    found = []
    for token_ids in PROMPTS:
        found.append(ask(engine, token_ids))
        engine.run()
    engine.close()
    return said(found)


@pytest.mark.parametrize("num", [2, 5, 8, 17, 32])
def test_among_random_neighbours(num: int, start: Open, alone: list[object]) -> None:
    """Some are under way when the four come, and some come later; every second one samples."""
    rng = random.Random(num)
    engine = start()
    others = [prompt(rng, rng.randrange(1, 50)) for _ in range(max(0, num - len(PROMPTS)))]
    for i, token_ids in enumerate(others):
        engine.submit(token_ids, max_tokens=rng.randrange(4, 12), temperature=float(i % 2), seed=i)
        if i == len(others) // 2:
            engine.step()
    asked = PROMPTS[: min(num, len(PROMPTS))]
    outcomes = [ask(engine, token_ids) for token_ids in asked]
    engine.step()
    assert len(engine.core.scheduler.running) >= min(num, 4), "they must run together for this to mean anything"
    engine.run()
    assert said(outcomes) == alone[: len(asked)]


def test_after_preemption(start: Open, alone: list[object]) -> None:
    engine = start(capacity_tokens=128, max_model_len=128, max_num_seqs=4)
    outcomes = [ask(engine, token_ids) for token_ids in PROMPTS]
    engine.step()
    for _ in range(2):
        engine.step()
        engine.core.scheduler.preempt(engine.core.scheduler.running[-1])
    engine.run()
    assert engine.core.scheduler.num_preemptions >= 2
    assert said(outcomes) == alone


def test_with_reused_prefixes(start: Open, alone: list[object]) -> None:
    engine = start(num_stored_pages=64, page_size=16)
    first = [ask(engine, token_ids) for token_ids in PROMPTS]
    engine.run()
    again = [ask(engine, token_ids) for token_ids in PROMPTS]
    engine.run()
    assert said(first) == said(again) == alone
    assert [outcome.num_cached_tokens for outcome in again] == [0, 0, 32, 48]


def test_the_default_form_is_packed_where_the_machine_can(bundled: LoadedModel) -> None:
    """Otherwise the tests above would be about another model than the one that is served."""
    assert bundled.quantize == ("gguf" if bundled.dtype is torch.bfloat16 else "none")
