"""Rope types whose frequencies transformers chooses by the longest sequence of a batch: here each has its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from handler.runners.rotary import changing_ropes, rope_types, settle_rotary
from handler.seam.config import KVLayout
from tests.support import stock, tiny_models
from tests.support.local_engine import LocalEngine

ORIGINAL = 32
LONGROPE: dict[str, Any] = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + 0.1 * i for i in range(8)],
        "long_factor": [4.0 + i for i in range(8)],
        "original_max_position_embeddings": ORIGINAL,
    },
    "original_max_position_embeddings": ORIGINAL,
    "max_position_embeddings": 8 * ORIGINAL,
}
DYNAMIC: dict[str, Any] = {
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "max_position_embeddings": 128,
}
LONG = [[(7 * i + j) % 250 for i in range(40 + 20 * j)] for j in range(3)]
SHORT = [[(11 * i + j) % 250 for i in range(4 + 3 * j)] for j in range(3)]

StartEngine = Callable[..., LocalEngine]


def answers(engine: LocalEngine, prompts: list[list[int]]) -> list[list[int]]:
    """All asked at once."""
    outcomes = [engine.submit(prompt, max_tokens=8) for prompt in prompts]
    engine.run()
    return [outcome.token_ids for outcome in outcomes]


@pytest.mark.parametrize("layout", ["slots", "paged"])
def test_sequences_beyond_the_original_context(
    layout: str, start_engine: StartEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Their prompts come in chunks of 16, the first of which is short enough for the other set of frequencies."""
    expected = [stock.greedy(tiny_models.build("phi3", **LONGROPE), prompt, 8) for prompt in LONG]
    with caplog.at_level(logging.INFO, "handler"):
        engine = start_engine(tiny_models.build("phi3", **LONGROPE), max_model_len=200, kv_layout=KVLayout(layout))
    assert "every sequence uses the long factors, because MAX_TOTAL_TOKENS is 200; with 32 or less" in caplog.text
    alone = [answers(engine, [prompt])[0] for prompt in SHORT]
    assert answers(engine, [*LONG, *SHORT]) == expected + alone


def test_sequences_within_the_original_context(start_engine: StartEngine) -> None:
    expected = [stock.greedy(tiny_models.build("phi3", **LONGROPE), prompt, 8) for prompt in SHORT]
    engine = start_engine(tiny_models.build("phi3", **LONGROPE), max_model_len=ORIGINAL)
    assert answers(engine, SHORT) == expected


def test_dynamic_frequencies_stay_as_they_are(start_engine: StartEngine) -> None:
    """The engine's longest sequence is the model's, and they change beyond that only."""
    prompts = [*SHORT, LONG[2]]
    expected = [stock.greedy(tiny_models.build("llama", **DYNAMIC), prompt, 8) for prompt in prompts]
    model = tiny_models.build("llama", **DYNAMIC)
    assert changing_ropes(model) == {"dynamic"}
    engine = start_engine(model, max_model_len=128)
    assert answers(engine, prompts) == expected
    assert not changing_ropes(model)


@pytest.mark.parametrize(
    ("family", "rope", "layout", "runner"),
    [
        ("phi3", LONGROPE, "slots", "slots"),
        ("phi3", LONGROPE, "paged", "paged"),
        ("falcon", LONGROPE, "auto", "dynamic_cache"),
        ("lfm2", LONGROPE, "auto", "dynamic_cache"),
        ("qwen3", DYNAMIC, "slots", "slots"),
        ("qwen3", DYNAMIC, "paged", "paged"),
        ("falcon", DYNAMIC, "auto", "dynamic_cache"),
    ],
)
def test_an_answer_depends_on_no_neighbour_and_no_earlier_request(
    family: str, rope: dict[str, Any], layout: str, runner: str, start_engine: StartEngine
) -> None:
    model = tiny_models.build(family, **rope)
    engine = start_engine(model, max_model_len=128, kv_layout=KVLayout(layout))
    assert engine.core.runner.name == runner
    assert not changing_ropes(engine.core.runner.loaded.model)
    before = [answers(engine, [prompt])[0] for prompt in SHORT]
    long = [answers(engine, [prompt])[0] for prompt in LONG]
    assert long == [stock.greedy(tiny_models.build(family, **rope), prompt, 8) for prompt in LONG]
    assert [answers(engine, [prompt])[0] for prompt in SHORT] == before, "after long ones"
    assert answers(engine, [LONG[0], *SHORT, *LONG[1:]]) == [long[0], *before, *long[1:]], "beside long ones"


def test_layers_of_different_kinds_are_settled_each() -> None:
    config = AutoConfig.for_model("gemma3_text", **tiny_models.ALL_FAMILIES["gemma3_text"])
    config.rope_parameters["full_attention"] = LONGROPE["rope_parameters"] | {"factor": 8.0}
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding

    found, fresh = Gemma3RotaryEmbedding(config), Gemma3RotaryEmbedding(config)
    assert changing_ropes(torch.nn.ModuleList([found])) == {"longrope"}
    settle_rotary(found, ORIGINAL + 1)
    assert not changing_ropes(torch.nn.ModuleList([found]))
    x = torch.zeros(1, 4, 64)
    near, far = torch.arange(4)[None], torch.arange(4)[None] + ORIGINAL
    for kind in ("sliding_attention", "full_attention"):
        expected = fresh(x, far, kind)
        assert torch.equal(found(x, far, kind)[0], expected[0])
        assert (kind == "full_attention") != torch.equal(found(x, near, kind)[0], fresh(x, near, kind)[0])


@pytest.mark.parametrize(
    ("parameters", "types"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, {"dynamic"}),
        (
            {"full_attention": {"rope_type": "longrope"}, "sliding_attention": {"rope_type": "default"}},
            {"longrope", "default"},
        ),
        (None, set()),
    ],
)
def test_rope_types_are_found_wherever_they_are_named(parameters: Any, types: set[str]) -> None:
    class Config:
        rope_parameters = parameters

    assert rope_types(Config()) == types
