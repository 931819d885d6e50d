"""Products by our own kernels over weights of 4 and 8 bits, against float32 products with what they stand for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from handler.kernels.product.tile_layout import are_tiles
from handler.linears.choice import quantised_layer
from handler.linears.join import join
from handler.linears.kernel_linear import KernelLinear
from handler.linears.packed_linear import PackedLinear
from handler.linears.quantised_weight import QuantisedWeight
from handler.linears.weight_blocks import BLOCK, quantise

if TYPE_CHECKING:
    from handler.kernels.product.product import BlockProduct

pytestmark = [
    pytest.mark.usefixtures("several_threads"),
    pytest.mark.needs("avx512_bf16"),
]


# By vectors, and by the matrix unit.
UNITS = [pytest.param(False, id="vectors"), pytest.param(True, id="matrices", marks=pytest.mark.needs("amx"))]


@pytest.fixture(params=UNITS, autouse=True)
def unit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel that layers use."""
    if not request.param:
        monkeypatch.setattr("handler.linears.choice.multiplies_matrices", lambda: False)


def halved(blocks: QuantisedWeight) -> QuantisedWeight:
    """With scales and minima that float16 holds, as a GGUF file has them."""
    return QuantisedWeight(blocks.bits, blocks.codes, blocks.scale.half().float(), blocks.minimum.half().float())


def layer(bits: int, out_features: int, in_features: int, bias: bool = False) -> tuple[KernelLinear, Tensor]:
    """A layer and its weights in float32."""
    torch.manual_seed(out_features)
    blocks = halved(quantise(torch.randn(out_features, in_features) * 0.05, bits))
    given = torch.randn(out_features).bfloat16() if bias else None
    made = quantised_layer(blocks, given, torch.bfloat16)
    assert isinstance(made, KernelLinear)
    return made, blocks.dequantise(torch.float32)


def multiplied(made: KernelLinear, weights: Tensor) -> Tensor:
    """The weights as the kernel has them: the matrix unit's are rounded, as the test of reading them back judges."""
    return made.weight.float() if made.packed is not None and are_tiles(made.packed.codes) else weights


def rows(count: int, width: int) -> Tensor:
    return torch.randn(1, count, width, generator=torch.Generator().manual_seed(count)).bfloat16()


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got.float(), expected, atol=1e-3, rtol=8e-3)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(64, 32), (192, 576), (128, 1536)], ids=str)
@pytest.mark.parametrize("bits", [4, 8])
def test_products_are_those_of_the_weights(bits: int, shape: tuple[int, int], bias: bool) -> None:
    made, weights = layer(bits, *shape, bias)
    weights = multiplied(made, weights)
    offset = 0 if made.bias is None else made.bias.float()
    for count in (1, 2, 3, 4, 5, 6, 7, 8, 9, 33):
        x = rows(count, shape[1])
        expected = x.float() @ weights.T + offset
        close(made(x), expected)
        other = torch.randn_like(expected).bfloat16()
        close(made.silu(x), F.silu(expected))
        close(made.times(x, other), expected * other.float())
        close(made.plus(x, other), expected + other.float())


@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_has_the_same_bits_among_any_number_and_on_any_number_of_threads(bits: int) -> None:
    made, _ = layer(bits, 192, 576)
    x = rows(40, 576)
    alone = torch.cat([made(x[:, i : i + 1]) for i in range(40)], 1)
    before = torch.get_num_threads()
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        try:
            for count in (2, 3, 5, 8, 17, 40):
                assert torch.equal(made(x[:, :count]), alone[:, :count])
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("bits", [4, 8])
def test_extreme_codes_are_exact(bits: int) -> None:
    codes = torch.zeros(64, 32, dtype=torch.uint8)
    codes[::2] = 2**bits - 1
    blocks = QuantisedWeight(bits, codes, torch.ones(64, 1), torch.full((64, 1), -1.0))
    made = quantised_layer(blocks, None, torch.bfloat16)
    assert isinstance(made, KernelLinear)
    x = torch.zeros(1, 32).bfloat16()
    x[0, 5] = 1.0
    assert made(x).tolist() == [[2.0**bits - 2, -1.0] * 32]


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("num_rows", [5, 40, 131])
def test_rows_apart_have_the_bits_of_rows_together(num_rows: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the team has fewer threads than parts, as it may if OpenMP is told to limit them."""
    from handler.kernels.norm.row_norm import RowNorm
    from handler.kernels.product.product_outputs import PLUS
    from handler.kernels.program import Program

    monkeypatch.setattr("handler.kernels.program.num_threads", lambda: parts)
    monkeypatch.setattr("handler.kernels.team.num_threads", lambda: 4)
    up, down = layer(4, 192, 64, bias=True)[0].product, layer(8, 64, 192)[0].product
    norm = RowNorm(torch.rand(64).bfloat16(), 1e-5)
    x = rows(num_rows, 64)[0]
    expected = torch.cat(_each_alone(norm, up, down, x))
    hidden, normed, wide = x.clone(), torch.empty_like(x), x.new_empty(num_rows, 192)
    at = [one.data_ptr() for one in (hidden, normed, wide)]
    steps = [norm.step(at[0], at[1]), up.step(at[1], at[2]), down.step(at[2], at[0], PLUS, at[0])]
    program = Program([step._replace(min_rows=1) for step in steps])
    program.run(num_rows)
    assert torch.equal(hidden, expected)


def _each_alone(norm: Callable[[Tensor], Tensor], up: BlockProduct, down: BlockProduct, x: Tensor) -> list[Tensor]:
    return [down.plus(up(norm(row)), row) for row in x.split(1)]


def test_nan_and_infinity_stay_in_their_rows() -> None:
    made, _ = layer(4, 64, 64)
    x = rows(8, 64)
    x[0, 3, 7], x[0, 5, 9] = float("nan"), float("inf")
    assert made(x).isfinite().all(-1)[0].tolist() == [True, True, True, False, True, False, True, True]


@pytest.mark.parametrize("bits", [4, 8])
def test_the_weight_can_be_read_back(bits: int) -> None:
    made, weights = layer(bits, 192, 576, bias=True)
    off = (made.weight.float().abs() - weights.abs()) / weights.abs().clamp(min=1e-9)
    # Rounded to nearest, neither up nor down on the whole: a tenth of them lie in the middle between two.
    assert off.abs().max() <= 2**-8
    assert off.mean().abs() < 1e-4


def test_joined_layers_answer_side_by_side() -> None:
    parts = [layer(4, size, 64, bias=size == 128)[0] for size in (192, 64, 128)]
    x = rows(3, 64)
    whole = join(parts)
    assert isinstance(whole, KernelLinear)
    close(whole(x), torch.cat([part(x) for part in parts], -1).float())


def test_other_shapes_and_numbers_go_to_the_other_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = halved(quantise(torch.randn(48, 64), 4))
    assert type(quantised_layer(odd, None, torch.bfloat16)) is PackedLinear
    apart = quantise(torch.randn(64, 64) * torch.logspace(-9, 6, 64)[:, None], 4)
    assert type(quantised_layer(apart, None, torch.bfloat16)) is PackedLinear
    fine = halved(quantise(torch.randn(64, BLOCK), 4))
    assert type(quantised_layer(fine, None, torch.float32)) is PackedLinear
    monkeypatch.setitem(sys.modules, "numba", None)
    assert type(quantised_layer(fine, None, torch.bfloat16)) is PackedLinear
