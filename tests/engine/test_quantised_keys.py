"""KV memory in 8 bits: answers do not depend on what runs beside, on reused prefixes or on preemption; what cannot be
is refused by a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from handler.model.kv_size import choose_kv_codes, kv_bytes_per_token
from handler.runners.choice import choose_runner
from handler.runners.paged.runner import PagedRunner
from handler.runners.slots.runner import SlotRunner
from handler.seam.config import EngineConfig, KVCacheDtype, KVLayout
from handler.seam.errors import BadConfiguration, UnsupportedModel
from handler.seam.status import StatusBoard
from tests.support import tiny_models
from tests.support.local_engine import LocalEngine, limits, loaded
from tests.support.packed import pack_linears

PAGE = 8
SYSTEM = [(7 * i + 3) % 250 for i in range(50)]
PROMPTS = [[*SYSTEM[:30], 1, 2], [*SYSTEM[:30], 3], [9] * 20]
HEADS = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32}
INT8 = torch.int8

# Family, weights of four bits or none, changes, codes. The first runs all its layers in one call.
CASES = {
    "one call": ("llama", 4, HEADS, INT8),
    "head norms": ("qwen3", 4, HEADS, INT8),
    "windows": ("mistral", 0, {}, INT8),
    "torch": ("gemma2", 0, {}, INT8),
    "floats": ("gemma2", 0, {}, torch.float8_e4m3fn),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The tiny models gain nothing from more, and lose much where the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model_of(family: str, bits: int, changes: dict[str, int]) -> Any:
    model = tiny_models.build(family, num_hidden_layers=2, **changes)
    if bits:
        model = model.to(torch.bfloat16)
        assert pack_linears(model, bits)
    return model


def start(directory: Path, found: Any, num_stored_pages: int = 64, **changes: int) -> LocalEngine:
    directory.mkdir()
    bounds = limits(page_size=PAGE, num_stored_pages=num_stored_pages, **changes)
    runner = SlotRunner(found, bounds.max_num_seqs, bounds.max_model_len, bounds.num_stored_pages, PAGE)
    runner.accelerate()
    runner.prove()
    return LocalEngine(runner, bounds, directory)


def answers(engine: LocalEngine, prompts: list[list[int]], reuse_prefix: bool = True) -> list[list[int]]:
    found = [engine.submit(prompt, max_tokens=6, reuse_prefix=reuse_prefix) for prompt in prompts]
    engine.run()
    return [outcome.token_ids for outcome in found]


@pytest.mark.needs("avx512_bf16")
@pytest.mark.parametrize("case", CASES)
def test_answers_do_not_depend_on_others_prefixes_or_preemption(case: str, tmp_path: Path) -> None:
    family, bits, changes, codes = CASES[case]
    engine = start(tmp_path / "engine", loaded(model_of(family, bits, changes), kv_codes=codes))
    runner: Any = engine.core.runner
    try:
        alone = [answers(engine, [prompt], reuse_prefix=False)[0] for prompt in PROMPTS]
        assert all(part.dtype is codes for part in runner.cache.reader(0, torch.float32).tensors[:2])
        assert answers(engine, PROMPTS, reuse_prefix=False) == alone
        assert answers(engine, PROMPTS) + answers(engine, PROMPTS) == alone * 2
        assert engine.core.scheduler.kv.prefix_hit_tokens > 0
        found = [engine.submit(prompt, max_tokens=6, reuse_prefix=False) for prompt in PROMPTS]
        for _ in range(3):
            engine.step()
        engine.core.scheduler.preempt(engine.core.scheduler.running[-1])
        engine.run()
        assert [outcome.token_ids for outcome in found] == alone
    finally:
        engine.close()


@pytest.mark.parametrize(("family", "name"), [("llama", "int8"), ("gemma2", "fp8_e4m3fn"), ("mistral", "fp8_e5m2")])
def test_pages(family: str, name: str, tmp_path: Path) -> None:
    codes = CHOSEN[name, "cuda"]
    found = loaded(model_of(family, 0, {}), kv_codes=codes)
    config = EngineConfig(kv_layout=KVLayout.PAGED, kv_capacity_tokens=2048, max_model_len=128, page_size=PAGE)
    runner, bounds = choose_runner(config, found, StatusBoard(tmp_path / "board", create=True))
    assert isinstance(runner, PagedRunner)
    assert runner.cache.layer(0)[0].dtype is codes
    assert "reads no keys of 8 bits" in runner.decoding
    engine = LocalEngine(runner, bounds, tmp_path)
    try:
        alone = [answers(engine, [prompt], reuse_prefix=False)[0] for prompt in PROMPTS]
        assert answers(engine, PROMPTS) + answers(engine, PROMPTS) == alone * 2
        assert engine.core.scheduler.kv.prefix_hit_tokens > 0
    finally:
        engine.close()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("layout", [KVLayout.AUTO, KVLayout.SLOTS])
def test_on_cuda(layout: KVLayout, tmp_path: Path) -> None:
    found = loaded(model_of("llama", 0, {}).to("cuda", torch.bfloat16), kv_codes=torch.float8_e4m3fn)
    config = EngineConfig(kv_layout=layout, kv_capacity_tokens=2048, max_model_len=64, max_num_seqs=2)
    runner: Any = choose_runner(config, found, StatusBoard(tmp_path / "board", create=True))[0]
    assert runner.name == ("slots" if layout is KVLayout.SLOTS else "paged")
    assert runner.cache.dtype is torch.float8_e4m3fn


@pytest.mark.needs("avx512_bf16")
def test_layers_run_in_one_call_and_fused_as_without(tmp_path: Path) -> None:
    """The same levels as over keys of 16 bits."""
    for name, codes in (("one call", INT8), ("windows", INT8)):
        family, bits, changes, _ = CASES[name]
        kinds = []
        for each in (None, codes):
            runner = SlotRunner(loaded(model_of(family, bits, changes), kv_codes=each), 4, 64, 16, PAGE)
            runner.accelerate()
            kinds.append([type(layer).__name__ for layer in runner.loaded.model.model.layers])
        assert kinds[0] == kinds[1]
        assert all(kind.startswith("Fused") for kind in kinds[0])


def test_the_trial_sees_scales_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """It compares with keys that are rounded alike, so no wider tolerance hides them."""
    runner = SlotRunner(loaded(model_of("gemma2", 0, {}), kv_codes=INT8), 4, 64, 16, PAGE)
    monkeypatch.setattr("handler.runners.slots.cache.dequantise", lambda codes, scales, dtype: (codes * 0.02).to(dtype))
    with pytest.raises(UnsupportedModel, match="logits differ from eager attention"):
        runner.prove()


REFUSED = {
    ("fp8", "cpu"): "KV_CACHE_DTYPE=fp8 needs CUDA: on CPU set KV_CACHE_DTYPE=int8, which takes as much memory and",
    ("fp8_e5m2", "cpu"): "KV_CACHE_DTYPE=fp8_e5m2 needs CUDA",
    ("float16", "cpu"): "KV_CACHE_DTYPE=float16 differs from bfloat16, the type of the weights: set DTYPE=float16",
    ("float32", "cuda"): "KV_CACHE_DTYPE=float32 differs from bfloat16",
}
CHOSEN = {
    ("auto", "cpu"): None,
    ("bfloat16", "cpu"): None,
    ("int8", "cpu"): torch.int8,
    ("int8", "cuda"): torch.int8,
    ("fp8", "cuda"): torch.float8_e4m3fn,
    ("fp8_e4m3", "cuda"): torch.float8_e4m3fn,
    ("fp8_e4m3fn", "cuda"): torch.float8_e4m3fn,
    ("fp8_e5m2", "cuda"): torch.float8_e5m2,
}


def test_each_value_is_taken_or_refused_by_name() -> None:
    for (name, device), codes in CHOSEN.items():
        assert choose_kv_codes(KVCacheDtype(name), torch.bfloat16, torch.device(device)) is codes
    for (name, device), sentence in REFUSED.items():
        with pytest.raises(BadConfiguration, match=sentence):
            choose_kv_codes(KVCacheDtype(name), torch.bfloat16, torch.device(device))


def test_a_model_on_transformers_own_cache_is_refused(tmp_path: Path) -> None:
    config = EngineConfig(max_model_len=64, kv_capacity_tokens=1024, kv_cache_dtype=KVCacheDtype.INT8)
    board = StatusBoard(tmp_path / "board", create=True)
    with pytest.raises(UnsupportedModel, match="KV_CACHE_DTYPE=int8 does not fit this model: bloom over slots"):
        choose_runner(config, loaded(tiny_models.build("bloom"), kv_codes=INT8), board)


def test_memory_of_a_token_is_half_and_the_scales() -> None:
    config = tiny_models.build("llama", num_hidden_layers=2).config
    heads = 2 * 2 * 2
    assert kv_bytes_per_token(config, torch.bfloat16) == heads * 16 * 2
    for codes in (torch.int8, torch.float8_e4m3fn):
        assert kv_bytes_per_token(config, codes) == heads * (16 + 4)
