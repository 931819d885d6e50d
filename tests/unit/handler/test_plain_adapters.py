"""Adapters on modules in plain torch: each row has its own, to the last bit, and nothing stays behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from handler.adapters.adapter import Adapter, LowRank
from handler.adapters.invariant import product
from handler.adapters.plain import PlainAdapters
from handler.adapters.rows import BASE, AdapterRows, adapter_rows, current_rows
from tests.support import tiny_models

pytestmark = pytest.mark.usefixtures("one_thread")

PATH = "model.layers.1.mlp.up_proj"


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def adapter(seed: int, rank: int) -> Adapter:
    pair = LowRank(drawn(rank, 64, seed=seed), drawn(96, rank, seed=seed + 100), 0.5)
    return Adapter(products={PATH: pair}, bias_changes={"model.norm": drawn(64, seed=seed)})


@pytest.fixture
def model() -> Iterator[Any]:
    with torch.inference_mode():
        yield tiny_models.build("llama", num_hidden_layers=2)


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_a_rows_bits_do_not_depend_on_other_rows(model: Any, rank: int) -> None:
    adapters = PlainAdapters(model, torch.float32)
    layer, x = model.get_submodule(PATH), drawn(40, 64, seed=1)
    base = layer(x)
    for slot in (0, 1):
        adapters.load(slot, adapter(slot, rank))
    slots = [(BASE, 0, 1)[i % 3] for i in range(40)]
    with adapter_rows(AdapterRows.of(slots)):
        mixed = layer(x)
    assert torch.equal(mixed[0::3], base[0::3])
    for slot in (0, 1):
        own = torch.where((torch.tensor(slots) == slot)[:, None], x, drawn(40, 64, seed=9))
        with adapter_rows(AdapterRows.of([slot] * 40)):
            alone = layer(own)
        assert torch.equal(alone[slot + 1 :: 3], mixed[slot + 1 :: 3])
        assert not torch.equal(alone[slot + 1 :: 3], base[slot + 1 :: 3])


@pytest.mark.parametrize("rank", [1, 4, 64])
@pytest.mark.parametrize("inputs", [48, 576])
def test_products_of_a_row_are_the_same_bits_in_any_company(inputs: int, rank: int) -> None:
    weight, x = drawn(rank, inputs, seed=1), drawn(150, inputs, seed=2)
    whole = product(x, weight)
    for count in (1, 2, 3, 8, 17, 64):
        for first in (0, 13):
            assert torch.equal(product(x[first : first + count], weight), whole[first : first + count])


def test_hooks_come_with_the_first_adapter_and_go_with_the_last(model: Any) -> None:
    adapters = PlainAdapters(model, torch.float32)
    ids = torch.tensor([[1, 2, 3]])

    def run(slot: int) -> Tensor:
        with adapter_rows(AdapterRows.of([slot] * 3)):
            found: Tensor = model(input_ids=ids, use_cache=False).logits
        return found

    def hooks() -> int:
        return sum(len(module._forward_hooks) for module in model.modules())

    base = run(BASE)
    adapters.load(0, adapter(0, 4))
    adapters.load(1, adapter(1, 4))
    first, second = run(0), run(1)
    assert (hooks(), torch.equal(run(BASE), base), torch.equal(first, second)) == (2, True, False)
    adapters.load(0, adapter(1, 4))
    assert torch.equal(run(0), second)
    adapters.unload(0)
    assert (hooks(), torch.equal(run(0), base), torch.equal(run(1), second)) == (2, True, True)
    adapters.unload(1)
    adapters.unload(1)
    assert (hooks(), torch.equal(run(1), base)) == (0, True)


def test_a_runner_may_keep_some_modules_to_itself(model: Any) -> None:
    adapters = PlainAdapters(model, torch.float32)
    adapters.load(0, adapter(0, 4), paths={"model.norm"})
    assert not model.get_submodule(PATH)._forward_hooks
    assert len(model.model.norm._forward_hooks) == 1


def test_a_module_that_sees_other_rows_raises(model: Any) -> None:
    """A wrong answer would be worse."""
    adapters = PlainAdapters(model, torch.float32)
    adapters.load(0, adapter(0, 4))
    with adapter_rows(AdapterRows.of([0, 0, BASE, 0, 0])), pytest.raises(RuntimeError, match="in a pass of 5 rows"):
        model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False)


def test_rows_say_who_uses_which_adapter() -> None:
    rows = AdapterRows.of([2, BASE, 0, 2], [0, 2])
    assert rows.used == (0, 2)
    assert {slot: index.tolist() for slot, index in rows.index.items()} == {0: [2], 2: [0, 3]}
    assert {slot: index.tolist() for slot, index in rows.output_index.items()} == {0: [0], 2: [1]}
    assert current_rows() is None
    with adapter_rows(rows):
        assert current_rows() is rows
        with adapter_rows(AdapterRows.of([BASE])):
            assert current_rows() is None
        assert current_rows() is rows
    assert current_rows() is None
