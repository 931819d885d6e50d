"""What adapters add to rows, by kernels: against float64, and the same bits alone as beside any rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from handler.kernels.low_rank import expand
from handler.kernels.low_rank.ahead import LINE_BYTES, NOW, next_ahead, start_ahead
from handler.kernels.low_rank.low_rank import Factors, LowRankInput, expand_into
from handler.kernels.low_rank.rows import Term
from handler.kernels.product.product_outputs import AHEAD, AHEAD_WHOLE, NUM_ARGUMENTS, SLOTS
from handler.kernels.team import NUM_ROWS
from handler.linears.choice import quantised_layer
from handler.linears.kernel_linear import KernelLinear
from handler.linears.weight_blocks import quantise

NUM_INPUTS = 66
SIZES = (128, 44)
# Runs of one slot, longer than rows that share a reading; base rows; a slot without adapter.
ROW_SLOTS = [-1, 0, 1, 2, 0, 0, 0, 0, 0, -1, 1, 1, 2, 2, 3]
# Rank of each section by slot, and whether a bias is added.
RANKS = {0: ((16, False), (3, True)), 1: ((1, False), None), 2: ((40, False), (17, False))}
_EPS = {torch.float32: 2e-6, torch.bfloat16: 1e-2}


def factors_of(slot: int, num_inputs: int, sizes: tuple[int, ...]) -> list[Factors | None]:
    draw = torch.Generator().manual_seed(slot)
    made: list[Factors | None] = []
    for given, size in zip(RANKS[slot], sizes, strict=True):
        if given is None:
            made.append(None)
            continue
        rank, biased = given
        down = torch.randn(rank, num_inputs, generator=draw) / num_inputs**0.5
        bias = torch.randn(size, generator=draw) if biased else None
        made.append(Factors(down, torch.randn(size, rank, generator=draw) / rank**0.5, 0.7 + slot, bias))
    return made


def reference(x: Tensor, slots: list[int], sizes: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """In float64, of factors as `dtype` holds them."""
    found = torch.zeros(len(x), sum(sizes), dtype=torch.float64)
    for row, slot in enumerate(slots):
        at = 0
        for one, size in zip(factors_of(slot, x.shape[1], sizes) if slot in RANKS else (), sizes, strict=False):
            if one is not None:
                down, up = (each.to(dtype).double() for each in (one.down, one.up))
                y = one.scaling * (x[row].double() @ down.T) @ up.T
                found[row, at : at + size] = y if one.bias is None else y + one.bias.to(dtype).double()
            at += size
    return found


def resident(num_inputs: int, sizes: tuple[int, ...], dtype: torch.dtype) -> LowRankInput:
    made = LowRankInput(num_inputs, [sizes], 2, dtype)
    made.grow(4)
    for slot in RANKS:
        made.put(slot, [factors_of(slot, num_inputs, sizes)])
    return made


def rows_of(num_inputs: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(len(ROW_SLOTS), num_inputs, generator=torch.Generator().manual_seed(9)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("operation", [expand.ADD, expand.ADD_TIMES, expand.ADD_THEN_SILU])
def test_finished_outputs(operation: int, dtype: torch.dtype) -> None:
    found, x = resident(NUM_INPUTS, SIZES, dtype), rows_of(NUM_INPUTS, dtype)
    out, other = (torch.randn(2, len(ROW_SLOTS), sum(SIZES)) * 2).to(dtype)
    before, slots = out.clone(), torch.tensor(ROW_SLOTS)
    expand_into(out, Term(found.shrunk(x, slots), found.ups[0]), operation, other)
    added = reference(x, ROW_SLOTS, SIZES, dtype)
    expected = before.double() + (added * other.double() if operation == expand.ADD_TIMES else added)
    if operation == expand.ADD_THEN_SILU:
        expected = torch.nn.functional.silu(expected)
    for row, slot in enumerate(ROW_SLOTS):
        if slot not in RANKS:
            assert torch.equal(out[row], before[row])
            continue
        untouched = SIZES[0] if RANKS[slot][1] is None else sum(SIZES)
        torch.testing.assert_close(
            out[row, :untouched].double(), expected[row, :untouched], atol=_EPS[dtype] * 4, rtol=_EPS[dtype]
        )
        assert torch.equal(out[row, untouched:], before[row, untouched:])
        alone = before[row : row + 1].clone()
        term = Term(found.shrunk(x[row : row + 1], slots[row : row + 1]), found.ups[0])
        expand_into(alone, term, operation, other[row : row + 1])
        assert torch.equal(alone[0], out[row])


@pytest.mark.needs("avx512_bf16")
@pytest.mark.parametrize("bits", [4, 8])
def test_products_of_packed_weights(bits: int) -> None:
    """A term is added before rounding and before what follows; other rows keep the bits of a product without terms."""
    sizes, num_inputs, dtype = (128, 64), 96, torch.bfloat16
    weight = torch.randn(sum(sizes), num_inputs, generator=torch.Generator().manual_seed(3)) / 10
    layer = quantised_layer(quantise(weight, bits), torch.randn(sum(sizes)), dtype)
    assert isinstance(layer, KernelLinear)
    found, x = resident(num_inputs, sizes, dtype), rows_of(num_inputs, dtype)
    slots, other = torch.tensor(ROW_SLOTS), torch.randn(len(ROW_SLOTS), sum(sizes)).to(dtype)
    added, product = reference(x, ROW_SLOTS, sizes, dtype), x.double() @ layer.weight.double().T
    assert layer.bias is not None
    y = product + layer.bias.double() + added
    calls: dict[str, tuple[Callable[[Tensor, Tensor, Term | None], Tensor], Tensor]] = {
        "forward": (lambda rows, beside, term: layer.product(rows, term), y),
        "silu": (lambda rows, beside, term: layer.product.silu(rows, term), torch.nn.functional.silu(y)),
        "times": (lambda rows, beside, term: layer.product.times(rows, beside, term), y * other.double()),
        "plus": (lambda rows, beside, term: layer.product.plus(rows, beside, term), y + other.double()),
    }
    for call, expected in calls.values():
        out = call(x, other, Term(found.shrunk(x, slots), found.ups[0]))
        torch.testing.assert_close(out.double(), expected, atol=0.1, rtol=2e-2)
        base = call(x, other, None)
        for row, slot in enumerate(ROW_SLOTS):
            own, beside = x[row : row + 1], other[row : row + 1]
            term = Term(found.shrunk(own, slots[row : row + 1]), found.ups[0])
            assert torch.equal(call(own, beside, term)[0], out[row])
            assert torch.equal(base[row], out[row]) == (slot not in RANKS)


def test_a_slot_that_was_emptied_adds_nothing() -> None:
    found, x = resident(NUM_INPUTS, SIZES, torch.float32), rows_of(NUM_INPUTS, torch.float32)
    for slot in RANKS:
        found.clear(slot)
    assert found.width == 0
    found.put(1, [factors_of(1, NUM_INPUTS, SIZES)])
    slots, out = torch.tensor(ROW_SLOTS), torch.zeros(len(ROW_SLOTS), sum(SIZES))
    expand_into(out, Term(found.shrunk(x, slots), found.ups[0]))
    assert out.any(1).tolist() == [slot == 1 for slot in ROW_SLOTS]


def test_a_product_fetches_its_part_of_each_adapter_once() -> None:
    """Rows side by side of one adapter share it; rows of the base, and of a slot without one, have nothing."""
    slots, table = np.array([-1, 0, 0, 1, 2, 0]), np.array([[1 << 20, 100], [1 << 21, 7], [0, 0]])
    arguments = np.zeros(NUM_ARGUMENTS, np.int64)
    arguments[NUM_ROWS], arguments[SLOTS] = len(slots), slots.ctypes.data
    state = np.zeros(8, np.int64)
    start_ahead(arguments, state, 30)
    assert next_ahead(arguments, state, 3) == 0
    arguments[AHEAD : AHEAD_WHOLE + 1] = (table.ctypes.data, 2, 8, 10)
    start_ahead(arguments, state, 30)
    fetched: list[int] = []
    while lines := next_ahead(arguments, state, 3):
        fetched += range(state[NOW], state[NOW] + 3 * lines * LINE_BYTES, LINE_BYTES)
    wanted = [(1 << 20) + LINE_BYTES * i for i in range(20, 80)]
    assert {*wanted, *((1 << 21) + LINE_BYTES * i for i in range(1, 5))} <= {*fetched}
    assert len(fetched) <= len(wanted) * 2 + 4 + 3 * 3, "at most 2 lines too many of each"
