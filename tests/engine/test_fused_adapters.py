"""Adapters in fused layers: rows keep their bits beside any others, in stacks as layer by layer; tokens are peft's."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from handler.adapters.adapter import Adapter, LowRank
from handler.adapters.model_shape import ModelShape
from handler.adapters.rows import BASE
from handler.runners.slots.fused_layers import FusedDecoderLayer
from handler.runners.slots.fused_stack import FusedStack
from handler.runners.slots.runner import SlotRunner
from tests.support import adapters, tiny_models
from tests.support.local_engine import limits, loaded
from tests.support.packed import pack_linears

SIZES = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_hidden_layers": 2,
}
NUM_TOKENS = 3
BOUNDS = limits(max_model_len=96, max_num_seqs=6)
# Prompt lengths and slots: two of one adapter, one of the base between.
ROWS = ((41, 0), (20, 1), (33, BASE), (7, 0), (5, 9))


def runner_of(bits: int, dtype: torch.dtype) -> tuple[SlotRunner, ModelShape]:
    model: Any = tiny_models.build("llama", **SIZES)
    model = model.to(dtype)
    if bits:
        assert pack_linears(model, bits)
    shape = ModelShape.of(model)
    runner = SlotRunner(loaded(model), num_slots=6, max_len=96)
    runner.accelerate()
    runner.prove()
    return runner, shape


def adapter(shape: ModelShape, rank: int, seed: int, names: str = "") -> Adapter:
    """Random; of the modules whose paths end with one of `names`, or of all layers."""
    draw = torch.Generator().manual_seed(seed)
    products, biases = {}, {}
    for path, size in shape.linears.items():
        if path.startswith("model.layers.") and path.endswith(tuple(names.split()) or ""):
            down = torch.randn(rank, size.num_inputs, generator=draw) / size.num_inputs**0.5
            products[path] = LowRank(down, torch.randn(size.num_outputs, rank, generator=draw) / 5, 1.5)
            biases[path] = torch.randn(size.num_outputs, generator=draw) / 10
    return Adapter(products=products, bias_changes=biases if seed % 2 else {}, max_rank=rank)


def load_three(runner: SlotRunner, shape: ModelShape) -> None:
    for slot, made in {
        0: adapter(shape, 8, 0),
        1: adapter(shape, 17, 1),
        9: adapter(shape, 4, 2, "q_proj down_proj"),
    }.items():
        runner.load_adapter(slot, made)


def prompts() -> list[list[int]]:
    rng = random.Random(2)
    return [[rng.randrange(tiny_models.VOCAB_SIZE) for _ in range(length)] for length, _ in ROWS]


def last_logits(runner: SlotRunner, rows: list[tuple[list[int], int]]) -> list[torch.Tensor]:
    return adapters.generate(runner, BOUNDS, rows, NUM_TOKENS)[1]


@pytest.mark.parametrize(
    ("bits", "dtype"),
    [
        pytest.param(4, torch.bfloat16, marks=pytest.mark.needs("avx512_bf16")),
        pytest.param(8, torch.bfloat16, marks=pytest.mark.needs("avx512_bf16")),
        pytest.param(0, torch.bfloat16, marks=pytest.mark.needs("avx512_bf16")),
        (0, torch.float32),
    ],
)
def test_rows_keep_their_bits(bits: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, shape = runner_of(bits, dtype)
    stacked = isinstance(runner.loaded.model.model.layers[0], FusedStack)
    assert stacked or all(isinstance(layer, FusedDecoderLayer) for layer in runner.loaded.model.model.layers)
    texts = prompts()
    of_base = last_logits(runner, [(text, BASE) for text in texts])
    load_three(runner, shape)
    rows = [(text, slot) for text, (_, slot) in zip(texts, ROWS, strict=True)]
    mixed = last_logits(runner, rows)
    for row, found, before in zip(rows, mixed, of_base, strict=True):
        assert torch.equal(found, before) == (row[1] == BASE)
        assert torch.equal(last_logits(runner, [row])[0], found)
    assert all(map(torch.equal, last_logits(runner, [(text, BASE) for text in texts]), of_base))
    if stacked:
        with monkeypatch.context() as patch:
            patch.setattr("handler.runners.slots.fused_stack.can_stack", lambda _layer: False)
            apart, shape = runner_of(bits, dtype)
        assert all(isinstance(layer, FusedDecoderLayer) for layer in apart.loaded.model.model.layers)
        load_three(apart, shape)
        assert all(map(torch.equal, last_logits(apart, rows), mixed))
    for slot in (0, 1, 9):
        runner.unload_adapter(slot)
    assert all(map(torch.equal, last_logits(runner, rows), of_base))


def test_a_prepared_adapter_is_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its slot then holds the same memory, and what was packed is nowhere else."""
    runner, shape = runner_of(0, torch.float32)
    rows = [(prompts()[1], 0)]
    plain = adapter(shape, 17, 1)
    runner.load_adapter(0, plain)
    expected = last_logits(runner, rows)[0]
    runner.unload_adapter(0)
    prepared = runner.prepare_adapter(plain)
    assert not any(map(runner._adapters.holds, prepared.paths))
    monkeypatch.setattr("handler.kernels.low_rank.low_rank.LowRankInput.packed", None)
    for _ in range(2):
        runner.load_adapter(0, prepared)
        assert torch.equal(last_logits(runner, rows)[0], expected)
        runner.unload_adapter(0)


@pytest.mark.parametrize("kind", adapters.KINDS[:12])
def test_tokens_are_those_of_peft(kind: str, tmp_path: Path) -> None:
    """In float32; what lies outside fused layers is added by hooks."""
    names = adapters.FAMILIES["llama"]
    model = tiny_models.build("llama", **SIZES).float()
    made = adapters.write(model, tmp_path, **adapters.options(kind, names))
    theirs = adapters.peft_model(model, made)
    runner, shape = runner_of(0, torch.float32)
    adapters.load(runner, shape, made, 0)
    texts = prompts()[:2]
    answers, _ = adapters.generate(runner, BOUNDS, [(texts[0], 0), (texts[1], BASE)], 8)
    assert answers[0] == adapters.choices(theirs, texts[0], answers[0])
    assert answers[1] == adapters.choices(model, texts[1], answers[1])
