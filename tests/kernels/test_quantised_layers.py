"""The layer for each form of stored weights: its products are those of the weights it stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from handler.kernels.product.rounded.activations import ACTIVATIONS
from handler.linears.choice import quantised_layer
from handler.linears.kernel_linear import KernelLinear
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
    "5 bits, groups of 32, with minima": lambda: grouped(5, 32, minimum=True),  # Q5_1, Q5_K
    "8 bits by channel": lambda: grouped(8, K, zero=128),  # compressed-tensors, bitsandbytes
    "8 bits, groups of 32": lambda: grouped(8, 32, zero=128),  # Q8_0
    "8 bits, zero and minimum": lambda: grouped(8, 64, zero=128, minimum=True),
}


_E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
_FP4 = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0]
_HALF_NF4 = [0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0]
TABLES = {
    "e2m1": torch.tensor(_E2M1 + [-each for each in _E2M1]),
    "fp4": torch.tensor(_FP4 + [-each for each in _FP4]) / 12,
    "nf4": torch.tensor([-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0, *_HALF_NF4]),
    "iq4_nl": torch.tensor([-127.0, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]),
}
E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()


def by_table(name: str, group: int) -> QuantisedWeight:
    weight, table = grouped(4, group), TABLES[name]
    return replace(weight, table=table, scale=weight.scale * 8 / table.abs().max())


def floats(group: int) -> QuantisedWeight:
    """All codes of e4m3 but NaN, subnormal ones too."""
    weight = grouped(8, group)
    codes = torch.where((weight.codes & 127) == 127, 1, weight.codes)
    return replace(weight, codes=codes, table=E4M3, scale=weight.scale / 40)


# What our kernel alone takes.
OTHER: dict[str, Form] = {
    "NF4": lambda: by_table("nf4", 64),
    "FP4": lambda: by_table("fp4", 64),
    "MXFP4": lambda: by_table("e2m1", 32),
    "NVFP4": lambda: by_table("e2m1", 16),
    "IQ4_NL": lambda: by_table("iq4_nl", 32),
    "FP8, blocks of 128": lambda: floats(128),
    "FP8 by channel": lambda: floats(K),
    "Q2_K": lambda: grouped(2, 16, minimum=True),
    "Q3_K": lambda: grouped(3, 16, zero=4),
    "Q6_K": lambda: grouped(6, 16, zero=32),
    "7 bits": lambda: grouped(7, 32, zero=64),
    "a table with a zero": lambda: replace(by_table("iq4_nl", 32), zero=3.0),
    "a zero between codes": lambda: grouped(4, 32, zero=7.5),
    "small scales": lambda: replace(floats(128), scale=floats(128).scale * 2.0**-20),
    "large scales": lambda: replace(by_table("e2m1", 32), scale=by_table("e2m1", 32).scale * 2.0**30),
    "act-order and a table": lambda: replace(by_table("nf4", 64), order=torch.arange(K).flip(0)),
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


@pytest.mark.needs("avx512_bf16")
@pytest.mark.parametrize("form", [*LINEAR.values(), *OTHER.values()], ids=[*LINEAR, *OTHER])
def test_our_kernel_takes_every_form(form: Form) -> None:
    """Any number of rows, and a row has the same bits whatever rows stand beside it."""
    weight = form()
    layer = quantised_layer(weight, None, torch.bfloat16)
    held = layer.layer if isinstance(layer, OrderedLinear) else layer
    assert isinstance(held, KernelLinear)
    assert layer is not None
    exact, x = weight.dequantise(torch.float32), rows(40, torch.bfloat16)
    together = layer(x)
    assert relative(together, x.float() @ exact.T) < 5e-3
    assert relative(layer.weight, exact) < 5e-3
    for count in range(1, 40):
        assert torch.equal(layer(x[:count]), together[:count]), count
    other = torch.randn(3, N).bfloat16()
    assert relative(layer.plus(x[:3], other), x[:3].float() @ exact.T + other.float()) < 5e-3


@pytest.mark.needs("avx512_bf16")
@pytest.mark.parametrize("group", [16, 32, 128])
def test_sums_of_activations_far_apart_have_the_same_bits(group: int) -> None:
    """Sums of numbers of like size are exact in any order."""
    layer = quantised_layer(grouped(4, group, minimum=True), None, torch.bfloat16)
    assert layer is not None
    x = rows(40, torch.bfloat16) * 2.0 ** torch.randint(-12, 12, (40, K), generator=torch.Generator().manual_seed(0))
    x = x.bfloat16()
    # What rounding to bfloat16 takes away shows the bits below.
    together = layer(x)
    rest = layer.plus(x, -together)
    for count in (1, 3, 8, 9):
        assert torch.equal(layer.plus(x[:count], -together[:count]), rest[:count]), count


# Bits a weight with its scales; what is not symmetric has a float16 minimum beside each scale.
SIZES = {
    "4 bits, groups of 32, symmetric": 4.5,
    "4 bits, groups of 32, with minima": 5.0,
    "8 bits, groups of 32": 8.5,
    "2 bits": 4.25,
    "4 bits, groups of 128, symmetric": 4.125,
    "4 bits, groups of 128, with minima": 4.25,
    "4 bits by channel": 4.125,
    "5 bits, groups of 32, with minima": 6.0,
    "Q6_K": 7.0,
    "Q3_K": 5.0,
    "NVFP4": 5.0,
    "FP8 by channel": 8.125,
}


@pytest.mark.needs("avx512_bf16")
def test_what_is_constant_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler.linears.choice.multiplies_matrices", lambda: False)
    found = {}
    for name in SIZES:
        layer = quantised_layer((LINEAR | OTHER)[name](), None, torch.bfloat16)
        assert isinstance(layer, KernelLinear)
        assert layer.packed is not None
        found[name] = sum(8 * each.nbytes for each in (layer.packed.codes, layer.packed.scales)) / (N * K)
    assert found == SIZES


def test_what_no_kernel_takes_has_no_layer() -> None:
    assert quantised_layer(grouped(4, 8, zero=8), None, torch.float32) is None, "a group is no multiple of 32"
    assert quantised_layer(grouped(4, 32, zero=8).rows(slice(24)), None, torch.bfloat16) is None, "24 outputs"
    table = QuantisedWeight(4, grouped(4, 32).codes, grouped(4, 32).scale, table=torch.arange(16.0))
    assert quantised_layer(table, None, torch.float32) is None, "torch's kernel has no table"


def rounded_activations(x: Tensor, group: int) -> Tensor:
    """As `ACTIVATION_DTYPE=int8` rounds them: in groups of 32 to 128."""
    grouped = x.float().view(len(x), -1, min(max(group, 32), 128))
    step = grouped.abs().amax(-1, keepdim=True) / 127
    return (torch.round(grouped / step.clamp_min(1e-30)) * step).view(x.shape)


# Each number of bits and each group of a kernel, with minima and without; compiling takes longest.
ROUNDED = (
    *("4 bits, groups of 128, symmetric", "4 bits, groups of 32, with minima", "4 bits, act-order", "Q2_K"),
    *("5 bits, groups of 32, with minima", "Q6_K", "8 bits, groups of 32"),
)


@pytest.fixture
def int8_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler.linears.choice.multiplies_matrices", lambda: False)
    monkeypatch.setattr(ACTIVATIONS, "wants_int8", True)


@pytest.mark.needs("avx512_vnni")
@pytest.mark.usefixtures("int8_activations")
@pytest.mark.parametrize("name", ROUNDED)
def test_activations_are_rounded_to_int8(name: str) -> None:
    weight = (LINEAR | OTHER)[name]()
    layer = quantised_layer(weight, None, torch.bfloat16)
    held = layer.layer if isinstance(layer, OrderedLinear) else layer
    assert layer is not None
    assert isinstance(held, KernelLinear)
    assert held.rounds
    exact, x = weight.dequantise(torch.float32), rows(20, torch.bfloat16)
    x[3] = 0
    ordered = x if weight.order is None else x[:, weight.order]
    given = rounded_activations(ordered, weight.group)
    columns = exact if weight.order is None else exact[:, weight.order]
    together = layer(x)
    # What is left is the rounding of the output.
    assert relative(together, given @ columns.T) < 2.0**-8
    assert relative(together, x.float() @ exact.T) < 3e-2
    for count in (1, 2, 3, 4, 5, 6, 7, 8, 9, 17):
        assert torch.equal(layer(x[:count]), together[:count]), count
    with ACTIVATIONS.exact():
        assert relative(layer(x), x.float() @ exact.T) < 5e-3


@pytest.mark.needs("avx512_vnni")
@pytest.mark.usefixtures("int8_activations")
@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
def test_a_damaged_row_is_damaged_alone(damage: float) -> None:
    layer = quantised_layer(grouped(4, 32, minimum=True), None, torch.bfloat16)
    assert layer is not None
    x = rows(9, torch.bfloat16)
    expected = layer(x)
    x[4, 7] = damage
    found = layer(x)
    assert not found[4].isfinite().any()
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    assert torch.equal(found[others], expected[others])


@pytest.mark.needs("avx512_vnni")
@pytest.mark.usefixtures("int8_activations")
def test_entries_of_a_table_keep_their_activations() -> None:
    layer = quantised_layer(by_table("nf4", 64), None, torch.bfloat16)
    assert isinstance(layer, KernelLinear)
    assert not layer.rounds
