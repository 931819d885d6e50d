"""The layer for each form of stored weights: its products are those of the weights it stands for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from handler.linears.choice import quantised_layer
from handler.linears.ordered_linear import OrderedLinear
from handler.linears.quantised_weight import QuantisedWeight

pytestmark = pytest.mark.usefixtures("several_threads")

N, K = 128, 256
Form = Callable[[], QuantisedWeight]


def grouped(bits: int, group: int, zero: float = 0.0, minimum: bool = False, ordered: bool = False) -> QuantisedWeight:
    """Random codes, scales that differ tenfold, and what is asked for beside them."""
    draw = torch.Generator().manual_seed(bits * group)
    codes = torch.randint(0, 2**bits, (N, K), generator=draw, dtype=torch.uint8)
    scale = (torch.rand(N, K // group, generator=draw) + 0.1) * 0.02
    least = (torch.rand(N, K // group, generator=draw) - 1) * 0.02 * 2 ** (bits - 1) if minimum else None
    order = torch.randperm(K, generator=draw) if ordered else None
    return QuantisedWeight(bits, codes, scale, least, zero, None, order)


# What published checkpoints hold; the comment names who writes it.
LINEAR: dict[str, Form] = {
    "4 bits, groups of 128, symmetric": lambda: grouped(4, 128, zero=8),  # GPTQ, compressed-tensors
    "4 bits, groups of 128, with minima": lambda: grouped(4, 128, minimum=True),  # AWQ
    "4 bits, groups of 32, with minima": lambda: grouped(4, 32, minimum=True),  # Q4_1, Q4_K
    "4 bits, groups of 32, symmetric": lambda: grouped(4, 32, zero=8),  # Q4_0
    "4 bits by channel": lambda: grouped(4, K, zero=8),  # GPTQ with group_size -1
    "4 bits, act-order": lambda: grouped(4, 64, zero=8, ordered=True),  # GPTQ with desc_act
    "2 bits": lambda: grouped(2, 64, zero=2),  # GPTQ
    "3 bits": lambda: grouped(3, 64, zero=4),  # GPTQ
    "5 bits": lambda: grouped(5, 32, zero=16),  # Q5_0
    "6 bits with minima": lambda: grouped(6, 64, minimum=True),
    "8 bits by channel": lambda: grouped(8, K, zero=128),  # compressed-tensors, bitsandbytes
    "8 bits, groups of 32": lambda: grouped(8, 32, zero=128),  # Q8_0
    "8 bits, zero and minimum": lambda: grouped(8, 64, zero=128, minimum=True),
}


def rows(count: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(count, K, generator=torch.Generator().manual_seed(count)).to(dtype)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("form", LINEAR.values(), ids=LINEAR)
def test_products_are_those_of_the_dequantised_weights(form: Form, dtype: torch.dtype) -> None:
    weight = form()
    bias = torch.randn(N, generator=torch.Generator().manual_seed(0)).to(dtype)
    layer = quantised_layer(weight, bias, dtype)
    assert layer is not None
    assert (layer.out_features, layer.in_features) == (N, K)
    exact, limit = weight.dequantise(torch.float32), 1e-5 if dtype is torch.float32 else 1e-2
    for count in (1, 7, 40):
        x = rows(count, dtype)
        expected = F.linear(x.float(), exact, bias.float())
        other = torch.randn_like(expected).to(dtype)
        assert relative(layer(x), expected) < limit
        assert relative(layer.silu(x), F.silu(expected)) < limit
        assert relative(layer.times(x, other), expected * other.float()) < limit
        assert relative(layer.plus(x, other), expected + other.float()) < limit
    assert relative(layer.weight, exact) < limit
    assert (weight.order is None) is not isinstance(layer, OrderedLinear)


def test_what_no_kernel_takes_has_no_layer() -> None:
    assert quantised_layer(grouped(4, 8, zero=8), None, torch.float32) is None, "a group is no multiple of 32"
    assert quantised_layer(grouped(4, 32, zero=8).rows(slice(24)), None, torch.bfloat16) is None, "24 outputs"
    table = QuantisedWeight(4, grouped(4, 32).codes, grouped(4, 32).scale, table=torch.arange(16.0))
    assert quantised_layer(table, None, torch.float32) is None, "torch's kernel has no table"
