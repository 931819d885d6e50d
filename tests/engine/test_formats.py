"""Checkpoints written by the formats' own libraries run as what these libraries make of them.

`tests/data/formats` has their logits of a float32 model (`tools/make_formats`).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from handler.model.gguf_model import converted
from handler.model.loader import load
from handler.seam.config import EngineConfig
from tests.support import stock
from tests.support.local_engine import LocalEngine

pytestmark = pytest.mark.usefixtures("one_thread")

FORMATS = Path(__file__).resolve().parents[1] / "data" / "formats"
STORED = sorted(path.parent.name for path in FORMATS.glob("*/expected.safetensors"))
PROMPTS = [[5, 9, 17, 33, 41, 50, 7], [8, 3, 22], [(11 * i + 5) % 90 for i in range(30)]]
NUM_TOKENS = 6

Start = Callable[..., LocalEngine]
Dense = Callable[[str], Any]


def opened(name: str, dtype: str, cache_dir: Path) -> Any:
    """The model that the loader makes of a fixture."""
    config = EngineConfig(device="cpu", dtype=dtype, cache_dir=str(cache_dir))
    directory = FORMATS / name
    if (directory / "model.gguf").is_file():
        directory = converted(directory / "model.gguf", cache_dir, lambda *_: None)
    return load(config, directory, lambda *_: None).model


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Dense:
    """The float32 model of a fixture, which has no quantised layer."""
    return functools.cache(lambda name: opened(name, "float32", tmp_path_factory.mktemp("dense")))


@torch.inference_mode()
def logits(model: Any, ids: Tensor) -> Tensor:
    """float32 `[T, V]`."""
    found: Tensor = model(input_ids=ids[None], use_cache=False).logits[0]
    return found.float()


def gap(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", STORED)
def test_logits_are_those_of_the_library(
    name: str, dense: Dense, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = load_file(FORMATS / name / "expected.safetensors")
    ids, wanted = expected["input_ids"], expected["logits"]
    assert gap(logits(dense(name), ids), wanted) <= 1e-5
    found = gap(logits(opened(name, "bfloat16", tmp_path), ids), wanted)
    assert "are not used" not in caplog.text
    # Activations in bfloat16 alone account for about 1e-2 in so small a model.
    rounded = copy.deepcopy(dense(name)).to(torch.bfloat16)
    assert found <= max(1e-2, 1.5 * gap(logits(rounded, ids), wanted))


@pytest.mark.parametrize("name", STORED)
def test_greedy_tokens_are_those_of_the_dequantised_model(
    name: str, dense: Dense, tmp_path: Path, start_engine: Start
) -> None:
    expected = [stock.greedy(dense(name), prompt, NUM_TOKENS) for prompt in PROMPTS]
    engine = start_engine(copy.deepcopy(dense(name)))
    assert alone(engine) == together(engine) == expected
    engine = start_engine(opened(name, "bfloat16", tmp_path))
    found = alone(engine)
    assert together(engine) == found
    for prompt, tokens in zip(PROMPTS, found, strict=True):
        assert_near_best(logits(dense(name), torch.tensor(prompt + tokens)), tokens)


def alone(engine: LocalEngine) -> list[list[int]]:
    found = []
    for prompt in PROMPTS:
        outcome = engine.submit(prompt, max_tokens=NUM_TOKENS)
        engine.run()
        found.append(outcome.token_ids)
    return found


def together(engine: LocalEngine) -> list[list[int]]:
    outcomes = [engine.submit(prompt, max_tokens=NUM_TOKENS) for prompt in PROMPTS]
    engine.run()
    return [outcome.token_ids for outcome in outcomes]


def assert_near_best(found: Tensor, tokens: list[int]) -> None:
    """The last `tokens` are the best by the logits before them, up to what bfloat16 rounds."""
    before = found[-len(tokens) - 1 : -1]
    chosen = before.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    assert bool((before.amax(1) - chosen <= 0.05 * before.abs().amax(1)).all())
