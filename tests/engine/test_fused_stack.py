"""Layers that run in one go answer as they do one by one, to the last bit; those that cannot stay as they are."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from handler.kernels.program import Program
from handler.linears.choice import quantised_layer
from handler.linears.join import SideBySide, together
from handler.linears.ordered_linear import OrderedLinear
from handler.linears.quantised_weight import QuantisedWeight
from handler.linears.weight_blocks import quantise
from handler.runners.layer_kinds import layer_linears
from handler.runners.slots.fused_layers import FusedDecoderLayer
from handler.runners.slots.fused_stack import FusedStack
from handler.runners.slots.runner import SlotRunner
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import GenerateRequest, SamplingParams
from tests.support import tiny_models
from tests.support.local_engine import loaded
from tests.support.packed import pack_linears

pytestmark = pytest.mark.needs("avx512_bf16")

SIZES = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}


def runner_of(bits: int = 4, family: str = "llama", **sizes: int) -> SlotRunner:
    model = tiny_models.build(family, **(SIZES | sizes)).to(torch.bfloat16)
    if bits:
        assert pack_linears(model, bits)
    runner = SlotRunner(loaded(model), num_slots=4, max_len=256)
    runner.accelerate()
    runner.prove()
    return runner


def in_six_bits(weight: Tensor) -> QuantisedWeight:
    """As Q6_K: groups of 16 about 32."""
    groups = weight.float().view(len(weight), -1, 16)
    scale = groups.abs().amax(-1) / 31
    codes = (groups / scale[..., None]).round() + 32
    return QuantisedWeight(6, codes.to(torch.uint8).view(weight.shape), scale, zero=32.0)


def ordered(weight: Tensor) -> QuantisedWeight:
    order = torch.randperm(weight.shape[1], generator=torch.Generator().manual_seed(weight.shape[1]))
    return replace(quantise(weight[:, order], 4), order=order)


def runner_of_forms(**forms: Callable[[Tensor], QuantisedWeight] | None) -> SlotRunner:
    """Of a model with linears in 4 bits, those of `forms` otherwise; None leaves them dense."""
    model = tiny_models.build("llama", **SIZES).to(torch.bfloat16)
    for layer in model.model.layers:
        for name, linear in [*layer.self_attn.named_children(), *layer.mlp.named_children()]:
            form = forms.get(name, lambda weight: quantise(weight, 4))
            if isinstance(linear, nn.Linear) and form is not None:
                parent = layer.self_attn if hasattr(layer.self_attn, name) else layer.mlp
                setattr(parent, name, quantised_layer(form(linear.weight.detach()), linear.bias, torch.bfloat16))
    runner = SlotRunner(loaded(model), num_slots=4, max_len=256)
    runner.accelerate()
    runner.prove()
    return runner


def layers_of(runner: SlotRunner) -> list[type]:
    return [type(layer) for layer in runner.loaded.model.model.layers]


def answers(runner: SlotRunner) -> list[Tensor]:
    """Logits of two prompts, one in chunks beside the tokens of the other; more rows than there is room for first."""
    rng = random.Random(1)
    lives = []
    for slot, length in enumerate((70, 150)):
        ids = [rng.randrange(tiny_models.VOCAB_SIZE) for _ in range(length)]
        request = GenerateRequest(str(slot), ids, SamplingParams(max_tokens=9, seed=0), 1.0)
        lives.append(Sequence(request, b"", 0.0, 1.0, slot=slot))
    found = []
    for chunks in ((70, 10), (1, 130), (1, 10), (1, 1), (1, 1)):
        items = [ScheduledSequence(life, life.num_computed, n) for life, n in zip(lives, chunks, strict=True)]
        step = runner.run(ScheduledBatch(items))
        for item in items:
            item.seq.num_computed = item.start + item.num_tokens
        for item, logits in zip(step.samples, step.logits, strict=True):
            item.seq.token_ids.append(int(logits.argmax()))
            found.append(logits.clone())
    assert len(found) == 8
    return found


def one_by_one(monkeypatch: pytest.MonkeyPatch, **sizes: Any) -> SlotRunner:
    with monkeypatch.context() as patch:
        patch.setattr("handler.runners.slots.fused_stack.can_stack", lambda _layer: False)
        return runner_of(**sizes)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_stack_answers_as_its_layers(bits: int, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    apart, stacked = one_by_one(monkeypatch, bits=bits, family=family), runner_of(bits, family)
    assert set(layers_of(apart)) == {FusedDecoderLayer}
    assert layers_of(stacked) == [FusedStack]
    assert stacked.num_attention_calls == apart.num_attention_calls > 1
    assert all(torch.equal(one, other) for one, other in zip(answers(stacked), answers(apart), strict=True))


def test_a_stack_that_answers_otherwise_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = one_by_one(monkeypatch)
    monkeypatch.setattr(Program, "run", lambda _program, _num_rows: None)
    runner = runner_of()
    assert set(layers_of(runner)) == {FusedDecoderLayer}
    assert all(torch.equal(one, other) for one, other in zip(answers(runner), answers(apart), strict=True))


# Q4_K_M has values and down projections in six bits in half of its layers.
@pytest.mark.parametrize("names", [("v_proj", "down_proj"), ("k_proj",)], ids=", ".join)
def test_layers_of_several_forms_are_stacked(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    forms = dict.fromkeys(names, in_six_bits)
    stacked = runner_of_forms(**forms)
    assert layers_of(stacked) == [FusedStack]
    with monkeypatch.context() as patch:
        patch.setattr("handler.runners.slots.fused_stack.can_stack", lambda _layer: False)
        apart = runner_of_forms(**forms)
    assert set(layers_of(apart)) == {FusedDecoderLayer}
    assert all(torch.equal(one, other) for one, other in zip(answers(stacked), answers(apart), strict=True))


def test_layers_whose_inputs_are_ordered_are_fused() -> None:
    runner = runner_of_forms(**dict.fromkeys(("q_proj", "k_proj", "v_proj", "down_proj"), ordered))
    assert set(layers_of(runner)) == {FusedDecoderLayer}
    assert isinstance(runner.loaded.model.model.layers[0].parts.qkv_proj, OrderedLinear), "of one order, so joined"


def test_a_dense_layer_among_packed_ones_is_fused_and_restored() -> None:
    model = tiny_models.build("llama", **SIZES).to(torch.bfloat16)
    layer = model.model.layers[0]
    for name in ("q_proj", "k_proj"):
        made = quantised_layer(quantise(getattr(layer.self_attn, name).weight, 4), None, torch.bfloat16)
        setattr(layer.self_attn, name, made)
    before = [linear.weight.clone() for linear in layer_linears(layer)]
    fused = FusedDecoderLayer(layer, together(layer_linears(layer)[:3]))
    assert isinstance(fused.parts.qkv_proj, SideBySide)
    assert len(fused.parts.qkv_proj.layers) == 2
    fused.empty_replaced()
    assert layer.self_attn.v_proj.weight.is_meta
    assert fused.restored() is layer
    after = [linear.weight for linear in layer_linears(layer)]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_layers_with_other_parts_stay_apart() -> None:
    assert set(layers_of(runner_of(intermediate_size=224))) == {FusedDecoderLayer}


def test_each_step_may_have_another_number_of_threads() -> None:
    """As beside a neighbour that comes and goes, or under a limit that changes."""
    runner = runner_of()
    assert runner.same_by_any_threads
    before = torch.get_num_threads()
    numbers = itertools.cycle((3, 1, 2, 1))
    found = []
    try:
        torch.set_num_threads(1)
        expected = answers(runner)
        run = runner.run

        def run_on_others(batch: ScheduledBatch) -> Any:
            torch.set_num_threads(next(numbers))
            found.append(torch.get_num_threads())
            return run(batch)

        runner.run = run_on_others  # type: ignore[method-assign]
        assert all(torch.equal(one, other) for one, other in zip(answers(runner), expected, strict=True))
    finally:
        torch.set_num_threads(before)
    assert set(found) == {1, 2, 3}


def test_a_model_with_torchs_attention_keeps_its_number_of_threads() -> None:
    assert not runner_of(bits=0).same_by_any_threads
