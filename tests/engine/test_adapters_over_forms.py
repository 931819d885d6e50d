"""Adapters over quantised bases: what peft says over the same weights, dequantised, up to what the form rounds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from handler.adapters.model_shape import ModelShape
from handler.adapters.rows import BASE
from handler.model.loader import LoadedModel, load
from handler.runners.dynamic_cache.runner import DynamicCacheRunner
from handler.seam.config import EngineConfig, Quantize
from tests.support import adapters, tiny_models
from tests.support.adapters import AT_LOAD, STORED
from tests.support.local_engine import limits

pytestmark = pytest.mark.usefixtures("one_thread")

FORMATS = Path(__file__).resolve().parents[1] / "data" / "formats"
PROMPTS = [[5, 9, 17, 33, 41], [8, 3, 22]]
NUM_TOKENS = 4
# Of the range of the logits: bfloat16 in layers of 128, and activations rounded to int8 by bitsandbytes.
NEAR = 0.05


def opened(directory: Path, dtype: str, quantize: Quantize = Quantize.NONE) -> LoadedModel:
    return load(EngineConfig(device="cpu", dtype=dtype, quantize=quantize), directory, lambda *_: None)


@torch.no_grad()
def dequantised(model: Any, like: Any) -> Any:
    """`like` with the weights by which the layers of `model` multiply."""
    made = copy.deepcopy(like)
    for path, module in made.named_modules():
        if isinstance(module, nn.Linear):
            layer = model.get_submodule(path)
            module.weight.copy_(layer(torch.eye(module.in_features, dtype=model.dtype)).T)
    return made


def check(loaded: LoadedModel, dense: Any, directory: Path, **options: Any) -> None:
    """Two adapters over `loaded` say what peft says over `dense`; in a batch, what they say alone; and more than it."""
    shape = ModelShape.of(loaded.model)
    runner, bounds = DynamicCacheRunner(loaded, 64), limits(max_model_len=64, max_num_seqs=4)
    (before,), _ = adapters.generate(runner, bounds, [(PROMPTS[0], BASE)], NUM_TOKENS)
    alone, from_base = [], []
    for slot, prompt in enumerate(PROMPTS):
        made = adapters.write(dense, directory / str(slot), seed=slot, noise=0.3, **options)
        found = adapters.load(runner, shape, made, slot)
        assert found.unused == ()
        (answer,), _ = adapters.generate(runner, bounds, [(prompt, slot)], NUM_TOKENS)
        assert adapters.gap(adapters.peft_model(dense, made), prompt, answer) <= NEAR
        from_base.append(adapters.gap(dense, prompt, answer))
        alone.append(answer)
    assert max(from_base) > 3 * NEAR, "adapters must change answers for this test to mean anything"
    rows = [(PROMPTS[0], BASE), *((prompt, slot) for slot, prompt in enumerate(PROMPTS))]
    together, _ = adapters.generate(runner, bounds, rows, NUM_TOKENS)
    assert together == [before, *alone]


def take_every_expert(model: Any) -> None:
    """So that no rounding turns a router's choice."""
    for module in model.modules():
        if hasattr(module, "top_k"):
            module.top_k = model.config.num_experts


@pytest.mark.parametrize("name", STORED)
def test_over_checkpoints_of_other_libraries(name: str, tmp_path: Path) -> None:
    """In bfloat16, where layers are as they are stored; in float32 the loader dequantises them."""
    dense, loaded = (opened(FORMATS / name, dtype) for dtype in ("float32", "bfloat16"))
    for each in (dense.model, loaded.model):
        take_every_expert(each)
    check(loaded, dense.model, tmp_path, target_modules="all-linear")


@pytest.mark.parametrize("quantize", AT_LOAD)
def test_over_weights_quantised_at_the_start(quantize: Quantize, tmp_path: Path) -> None:
    base = tiny_models.save("llama", tmp_path / "base", num_hidden_layers=2)
    loaded = opened(base, "float32", quantize)
    dense = dequantised(loaded.model, tiny_models.build("llama", num_hidden_layers=2))
    check(loaded, dense, tmp_path, target_modules=["q_proj", "gate_proj", "lm_head"], r=8)


def test_over_bfloat16(tmp_path: Path) -> None:
    base = tiny_models.save("qwen2", tmp_path / "base", num_hidden_layers=2)
    dense = tiny_models.build("qwen2", num_hidden_layers=2)
    options = {"target_modules": "all-linear", "bias": "all", "modules_to_save": ["lm_head"]}
    check(opened(base, "bfloat16"), dense, tmp_path, **options)
