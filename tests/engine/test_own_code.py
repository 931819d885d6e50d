"""Modules that compute more than their class stay as they are: nothing is fused, laid out or packed over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from handler.linears.choice import prepack_linears
from handler.linears.linear import is_plain
from handler.runners.own_noise import Noise
from handler.runners.slots.acceleration import Acceleration
from handler.runners.slots.runner import SlotRunner
from handler.runners.trial import compare
from tests.support import tiny_models
from tests.support.local_engine import limits, loaded
from tests.support.packed import pack_linears

pytestmark = pytest.mark.usefixtures("one_thread")


class _Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


class _OtherTensor(Tensor):
    """As libraries keep quantised weights."""


def _halve(result: Any) -> Any:
    """A tensor, or a tuple of some and of None."""
    if isinstance(result, tuple):
        return tuple(None if part is None else part / 2 for part in result)
    return result / 2


def _forward(module: nn.Module) -> None:
    inner = module.forward
    module.forward = lambda *args, **named: _halve(inner(*args, **named))  # type: ignore[method-assign]


KINDS: dict[str, Callable[[Any], object]] = {
    "forward": _forward,
    "hook": lambda module: module.register_forward_hook(lambda _, __, found: _halve(found)),
    "hook with names": lambda module: module.register_forward_hook(
        lambda _, __, ___, found: _halve(found), with_kwargs=True
    ),
}
OF_LINEAR = KINDS | {
    "hook before": lambda module: module.register_forward_pre_hook(lambda _, given: (given[0] / 2,)),
    "hook before with names": lambda module: module.register_forward_pre_hook(
        lambda _, given, named: ((given[0] / 2,), named), with_kwargs=True
    ),
    "parametrization": lambda module: parametrize.register_parametrization(module, "weight", _Halved()),
    "subclass of Tensor": lambda module: setattr(
        module, "weight", nn.Parameter(module.weight.data.as_subclass(_OtherTensor), requires_grad=False)
    ),
}
LINEARS = ("model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj", "lm_head")
OTHERS = ("model.layers.1", "model.layers.1.self_attn", "model.layers.1.mlp", "model.layers.1.input_layernorm")
OTHERS += ("model.layers.1.mlp.act_fn", "model.norm", "model.rotary_emb")
PLACES = [(name, kind) for name in LINEARS for kind in OF_LINEAR] + [(name, kind) for name in OTHERS for kind in KINDS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "kind"), PLACES)
def test_the_very_module_computes(name: str, kind: str, dtype: torch.dtype) -> None:
    model = tiny_models.build("llama", num_hidden_layers=2).to(dtype)
    module = model.get_submodule(name)
    OF_LINEAR[kind](module)
    found = loaded(model, frozenset())
    bounds = limits(max_model_len=64, max_num_seqs=4)
    runner = SlotRunner(found, bounds.max_num_seqs, bounds.max_model_len)
    runner.accelerate()
    runner.prove()
    assert model.get_submodule(name) is module


@pytest.mark.parametrize("kind", OF_LINEAR)
def test_such_a_layer_is_not_packed(kind: str) -> None:
    model = tiny_models.build("llama", num_hidden_layers=2)
    module = model.get_submodule(LINEARS[0])
    OF_LINEAR[kind](module)
    assert not is_plain(module)
    prepack_linears(model, [])
    pack_linears(model, 8)
    assert model.get_submodule(LINEARS[0]) is module


@torch.inference_mode()
def test_what_was_tried_and_undone_is_the_very_model() -> None:
    model = tiny_models.build("llama", num_hidden_layers=2)
    _forward(model.get_submodule(LINEARS[0]))
    modules, tokens = dict(model.named_modules()), torch.tensor([[5, 9, 17]])
    before = model(input_ids=tokens).logits
    acceleration = Acceleration(model)
    acceleration.apply(lambda _: torch.zeros(1), 64, 1e-3)
    assert model.get_submodule("lm_head") is not modules["lm_head"]
    acceleration.undo()
    assert all(model.get_submodule(name) is module for name, module in modules.items())
    assert torch.equal(model(input_ids=tokens).logits, before)


def _rounding(module: nn.Linear) -> None:
    """Inputs in 8 bits, as in layers of compressed-tensors and bitsandbytes."""
    inner = module.forward

    def forward(x: Tensor) -> Tensor:
        scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-6) / 127
        return inner((x / scale).round() * scale)

    module.forward = forward  # type: ignore[method-assign]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_that_round_their_inputs_pass_with_the_model_s_own_noise(dtype: torch.dtype) -> None:
    model = tiny_models.build("llama").to(dtype)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            _rounding(module)
    found = loaded(model, frozenset(), quantize="compressed-tensors")
    bounds = limits(max_model_len=64, max_num_seqs=4)
    SlotRunner(found, bounds.max_num_seqs, bounds.max_model_len).prove()


def test_noise_excuses_nothing_that_is_wrong_in_kind() -> None:
    found = loaded(tiny_models.build("llama").to(torch.bfloat16), frozenset(), quantize="compressed-tensors")
    rows = torch.randn(9, 50, generator=torch.Generator().manual_seed(0)) * 5
    assert compare(rows, rows * 1.2, found, Noise(0.2, 0.2)) is None
    assert compare(rows, rows * 1.2, found) is not None
    assert compare(rows, rows.roll(1, 0), found, Noise(9.0, 9.0)) is not None
