"""What stands before and after fused layers answers as what it replaces, and stays where it would not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from handler.runners.rotary import settle_rotary
from handler.runners.slots.norm_and_rotary import FusedNorm, RotaryTable, fuse_norm_and_rotary
from handler.runners.slots.runner import SlotRunner
from tests.support import tiny_models
from tests.support.local_engine import loaded

LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}


def model_of(family: str = "llama", **sizes: Any) -> Any:
    return tiny_models.build(family, **sizes).to(torch.bfloat16).eval()


def fused(model: Any) -> set[str]:
    """The attributes that are replaced."""
    replaced: dict[str, Any] = {}
    fuse_norm_and_rotary(model, 100, 1e-2, replaced)
    return set(replaced)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_ends_of_models_with_fused_layers_are_replaced(family: str) -> None:
    runner = SlotRunner(loaded(model_of(family)), num_slots=2, max_len=64)
    runner.accelerate()
    runner.prove()
    inner = runner.loaded.model.model
    assert (type(inner.norm), type(inner.rotary_emb)) == (FusedNorm, RotaryTable)


def test_models_whose_layers_stay_keep_their_ends() -> None:
    runner = SlotRunner(loaded(model_of("gemma3_text")), num_slots=2, max_len=64)
    runner.accelerate()
    runner.prove()
    assert "Gemma3" in type(runner.loaded.model.model.norm).__name__


@torch.inference_mode()
def test_angles_are_those_of_the_embedding_for_every_position() -> None:
    model = model_of(rope_parameters=LINEAR)
    rotary, hidden = model.model.rotary_emb, torch.zeros(1, 1, 8).bfloat16()
    places = torch.randperm(100)[None]
    expected = rotary(hidden, position_ids=places)
    assert fused(model) == {"norm", "rotary_emb"}
    for one, other in zip(expected, model.model.rotary_emb(hidden, places), strict=True):
        assert torch.equal(one, other)


def test_frequencies_that_change_are_not_tabulated() -> None:
    model = model_of(rope_parameters=DYNAMIC)
    assert fused(model) == {"norm"}
    settle_rotary(model, 100)
    assert fused(model) == {"rotary_emb"}


def test_a_norm_that_answers_otherwise_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    monkeypatch.setattr(FusedNorm, "forward", lambda _self, hidden: hidden * 2)
    assert fused(model) == {"rotary_emb"}


def test_an_embedding_that_depends_on_more_than_the_position_stays() -> None:
    model = model_of()
    rotary = model.model.rotary_emb
    plain = rotary.forward
    rotary.forward = lambda hidden, position_ids: tuple(
        one * position_ids.shape[1] for one in plain(hidden, position_ids)
    )
    assert fused(model) == {"norm"}


def test_positions_beyond_the_table_are_added() -> None:
    rotary, hidden = model_of().model.rotary_emb, torch.zeros(1, 1, 8).bfloat16()
    table = RotaryTable(rotary, 10, hidden)
    for places in (torch.tensor([[3, 11]]), torch.tensor([[200, 9]])):
        pairs = zip(rotary(hidden, position_ids=places), table(hidden, places), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
