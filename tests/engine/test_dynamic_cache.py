"""The runner over transformers' own cache: chunks, memory, failures, and what its trial finds and refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from handler.runners.choice import choose_runner
from handler.runners.dynamic_cache.forward import CachedForward
from handler.runners.dynamic_cache.rows import STATES, merge, split
from handler.runners.dynamic_cache.runner import DynamicCacheRunner
from handler.runners.limits import bytes_per_token
from handler.runners.slots.runner import SlotRunner
from handler.scheduling.scheduler import ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.config import EngineConfig
from handler.seam.errors import UnsupportedModel
from handler.seam.protocol import ErrorCode, GenerateRequest, SamplingParams
from handler.seam.status import StatusBoard
from handler.startup import start as start_up
from tests.support import stock, tiny_models
from tests.support.local_engine import LocalEngine, limits, loaded

StartEngine = Callable[..., LocalEngine]
CachedEngine = Callable[..., LocalEngine]

PROMPTS = [[(i * 7 + 11 * j + 3) % 250 for j in range(3 + 6 * i)] for i in range(5)]


@pytest.fixture
def cached_engine(tmp_path: Path) -> Iterator[CachedEngine]:
    """An engine with limits of its own over the cache runner."""
    engines: list[LocalEngine] = []

    def start(model: Any, **changes: int) -> LocalEngine:
        bounds = limits(**changes)
        runner = DynamicCacheRunner(loaded(model), bounds.max_model_len)
        runner.prove()
        engines.append(LocalEngine(runner, bounds, tmp_path))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("family", ["qwen3_next", "jamba", "bloom"])
@pytest.mark.parametrize("budget", [1, 7, 64])
def test_prompt_logprobs_are_those_of_the_model(family: str, budget: int, start_engine: StartEngine) -> None:
    """`jamba` puts off all chunks but the last; with a budget of 1 each chunk looks like a decoding row."""
    model = tiny_models.build(family)
    prompt = PROMPTS[3]
    with torch.no_grad():
        rows = model(torch.tensor([prompt]), use_cache=False).logits[0, :-1].log_softmax(-1)
    engine = start_engine(model, max_num_batched_tokens=budget)
    outcome = engine.submit(prompt, max_tokens=2, num_prompt_logprobs=2)
    engine.run()
    assert len(outcome.prompt_logprobs) == len(prompt) - 1
    for row, token_id, found in zip(rows, prompt[1:], outcome.prompt_logprobs, strict=True):
        assert found.logprob == pytest.approx(float(row[token_id]), abs=1e-4)
        assert [value for _, value in found.top] == pytest.approx(row.topk(2).values.tolist(), abs=1e-4)


@pytest.mark.parametrize("family", ["qwen3_next", "jamba"])
def test_preemption_is_invisible(family: str, cached_engine: CachedEngine) -> None:
    model = tiny_models.build(family)
    expected = [stock.greedy(model, prompt, 20) for prompt in PROMPTS]
    engine = cached_engine(model, capacity_tokens=64, max_model_len=64, max_num_batched_tokens=16)
    outcomes = [engine.submit(prompt, max_tokens=20) for prompt in PROMPTS]
    engine.run()
    assert engine.core.scheduler.num_preemptions > 0, "memory must have been short for this test to mean anything"
    assert [outcome.token_ids for outcome in outcomes] == expected


@pytest.mark.parametrize("family", ["mamba2", "llama4_text", "lfm2"])
def test_rows_of_different_length_leave_and_their_slots_are_reused(family: str, start_engine: StartEngine) -> None:
    model = tiny_models.build(family)
    expected = [stock.greedy(model, prompt, 15) for prompt in PROMPTS]
    engine = start_engine(model, max_num_seqs=2)
    outcomes = [engine.submit(prompt, max_tokens=3 + 3 * i) for i, prompt in enumerate(PROMPTS)]
    engine.run()
    for i, outcome in enumerate(outcomes):
        assert outcome.token_ids == expected[i][: 3 + 3 * i]
    assert len(engine.core.runner._batches) == 0, "nothing is kept of sequences that are gone"  # type: ignore[attr-defined]


HYBRIDS = ["qwen3_next", "lfm2", "granitemoehybrid", "jamba", "falcon_h1", "nemotron_h", "gemma3_text", "gpt_oss"]


@pytest.mark.parametrize("family", HYBRIDS)
@torch.inference_mode()
def test_rows_of_hybrid_caches_stay_their_own_in_any_order(family: str) -> None:
    """Shorter and longer than a window of 8. Every layer's part of a row moves, and ends, with the row."""
    forward = CachedForward(loaded(tiny_models.build(family)))
    prompts = [PROMPTS[0], PROMPTS[3], PROMPTS[1]]
    lengths = [len(prompt) for prompt in prompts]
    alone, moved = ([forward.new_cache() for _ in prompts] for _ in range(2))
    for prompt, *rows in zip(prompts, alone, moved, strict=True):
        for row in rows:
            forward.extend(row, prompt, 0, 1)
    for token_id, order in enumerate([(2, 0, 1), (1, 2), (0, 1, 2), (2, 0)], start=60):
        joined = merge([moved[i] for i in order])
        found = forward.decode(joined, [token_id + i for i in order], [lengths[i] for i in order])
        expected = [forward.extend(alone[i], [token_id + i], lengths[i], 1) for i in order]
        assert torch.allclose(found, torch.cat(expected), atol=1e-4), order
        for place, i in enumerate(order):
            lengths[i] += 1
            moved[i] = split(joined, place, lengths[i])
    for own, other in zip(alone, moved, strict=True):
        assert len(contents(own)) == len(contents(other)) > 0
        for one, same in zip(contents(own), contents(other), strict=True):
            assert one.shape == same.shape
            assert torch.allclose(one, same, atol=1e-4)


def contents(row: Any) -> list[torch.Tensor]:
    """All that a row holds."""
    keys = [each for layer in row.layers for each in (getattr(layer, "keys", None), getattr(layer, "values", None))]
    states = [state for layer in row.layers for name in STATES for state in getattr(layer, name, {}).values()]
    return [each for each in (*keys, *states) if each is not None]


def test_one_poisoned_sequence_fails_alone(start_engine: StartEngine) -> None:
    poison = 77
    model = tiny_models.build("qwen3_next")
    expected = [stock.greedy(model, prompt, 8) for prompt in PROMPTS[:3]]
    engine = start_engine(model)
    # Not before: weights that are not finite stop the start.
    model.get_input_embeddings().weight.data[poison] = float("nan")
    outcomes = [engine.submit(prompt, max_tokens=8) for prompt in PROMPTS[:3]]
    engine.step()
    poisoned = engine.submit([5, poison, 6, 9], max_tokens=8)
    engine.run()
    assert poisoned.error is not None
    assert poisoned.error.code is ErrorCode.NUMERICS
    again = [engine.submit(prompt, max_tokens=8) for prompt in PROMPTS[:3]]
    engine.run()
    assert [outcome.token_ids for outcome in (*outcomes, *again)] == expected * 2


def test_an_exception_in_a_step_fails_its_requests_and_the_engine_goes_on(start_engine: StartEngine) -> None:
    model = tiny_models.build("falcon")
    engine = start_engine(model)
    broken = [engine.submit(prompt, max_tokens=8) for prompt in PROMPTS[:2]]
    engine.step()
    engine.step()
    # Both together, then each alone; a model that fails on every prompt would end the engine.
    hook = model.transformer.h[1].register_forward_pre_hook(explode(times=3))
    engine.run()
    hook.remove()
    assert all(outcome.error is not None and outcome.error.code is ErrorCode.INTERNAL for outcome in broken)
    fine = [engine.submit(prompt, max_tokens=8) for prompt in PROMPTS[:3]]
    engine.run()
    assert [outcome.token_ids for outcome in fine] == [stock.greedy(model, prompt, 8) for prompt in PROMPTS[:3]]


def explode(times: int) -> Callable[..., None]:
    left = iter(range(times))

    def hook(*_: Any) -> None:
        if next(left, None) is not None:
            raise RuntimeError("half of the layers have seen the token")

    return hook


def test_a_long_row_is_not_padded_onto_short_ones() -> None:
    """Padding is bounded by half, and the order of the rows lasts while all of them grow."""
    runner = DynamicCacheRunner(loaded(tiny_models.build("bloom")), 4096)
    lengths = [5, 3000, 1400, 1600, 600, 40]
    items = []
    for slot, length in enumerate(lengths):
        request = GenerateRequest(str(slot), [1] * (length + 1), SamplingParams(max_tokens=1, seed=0), 1.0)
        items.append(ScheduledSequence(Sequence(request, b"", 0.0, 1.0, slot=slot), length, 1))
    groups = [[lengths[slot] for slot in group] for group in runner._groups(items)]
    assert groups == [[3000, 1600], [1400], [600], [40, 5]]


def test_rows_in_separate_batches_say_the_same(cached_engine: CachedEngine) -> None:
    model = tiny_models.build("bloom")
    prompts = [[(7 * j + 3) % 250 for j in range(n)] for n in (1200, 700, 500, 20)]
    expected = [stock.greedy(model, prompt, 6) for prompt in prompts]
    engine = cached_engine(model, max_model_len=1300, max_num_batched_tokens=600)
    outcomes = [engine.submit(prompt, max_tokens=6) for prompt in prompts]
    engine.run()
    assert [outcome.token_ids for outcome in outcomes] == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_that_a_second_chunk_forgets_is_found_at_any_precision(dtype: torch.dtype) -> None:
    """At 16 bits the logits are within the tolerance although mamba starts the second chunk from an empty state."""
    model = tiny_models.build("mamba").to(dtype)
    runner = DynamicCacheRunner(dataclasses.replace(loaded(model), dtype=dtype), 64)
    runner.prove()
    assert not runner.continues
    assert runner.merges


def test_a_model_that_keeps_its_state_elsewhere_is_refused_with_both_reasons(tmp_path: Path) -> None:
    """recurrent_gemma keeps the recurrent state in its modules, so that sequences would answer for one another."""
    config = AutoConfig.for_model("recurrent_gemma", **tiny_models.FAMILIES["llama"])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    board = StatusBoard(tmp_path / "status", create=True)
    with pytest.raises(UnsupportedModel, match=r"layers of type linear_attention.*over dynamic_cache: \w+"):
        choose_runner(EngineConfig(max_model_len=64, kv_capacity_tokens=4096), loaded(model), board)


def test_a_model_that_takes_no_cache_is_refused(tmp_path: Path) -> None:
    config = AutoConfig.for_model("rwkv", vocab_size=64, hidden_size=32, num_hidden_layers=2, context_length=64)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with pytest.raises(UnsupportedModel, match="rwkv: its forward takes no transformers cache"):
        DynamicCacheRunner(loaded(model), 64)


def test_chunked_attention_is_not_packed_however_long_the_chunk() -> None:
    """A chunk of 8,192 tokens ends where no trial comes."""
    config = AutoConfig.for_model(
        "llama4_text", **tiny_models.ALL_FAMILIES["llama4_text"] | {"attention_chunk_size": 8192}
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with pytest.raises(UnsupportedModel, match="chunked_attention"):
        SlotRunner(loaded(model), 2, 64).prove()


def test_states_count_against_memory(tmp_path: Path) -> None:
    """The states of as many rows as may run fit into half of the memory."""
    found = loaded(tiny_models.build("mamba2"))
    config = EngineConfig(max_model_len=64, max_num_seqs=64, kv_capacity_tokens=256)
    runner, bounds = choose_runner(config, found, StatusBoard(tmp_path / "status", create=True))
    assert isinstance(runner, DynamicCacheRunner)
    half = 256 * bytes_per_token(found) // 2
    assert runner.state_bytes > 0
    assert 1 <= bounds.max_num_seqs < 64
    assert bounds.max_num_seqs == max(1, half // runner.state_bytes)
    assert bounds.capacity_tokens == 128


@pytest.mark.parametrize(
    ("family", "runner", "longest"), [("mamba", "dynamic_cache", 4096), ("gemma4_text", "slots", 512)]
)
def test_a_checkpoint_with_an_unusual_configuration_starts(
    family: str, runner: str, longest: int, tmp_path: Path
) -> None:
    """mamba's names neither positions nor heads; Gemma 4's layers differ in their heads. Nothing is set by the user."""
    directory = tiny_models.save(family, tmp_path / "model")
    config = EngineConfig(
        model=str(directory), cache_dir=str(tmp_path), socket_path=str(tmp_path / "e.sock"), num_threads=1
    )
    num_threads = torch.get_num_threads()
    core, card = start_up(config, StatusBoard(tmp_path / "status", create=True))
    torch.set_num_threads(num_threads)
    core.shut_down()
    assert (card.runner, card.max_model_len) == (runner, longest)
    assert core.runner.loaded.model.config.model_type == family
