"""Packed linear layers: what they compute, that rows do not depend on each other, and joining several into one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handler.linears.join import join
from handler.linears.packed_linear import KERNEL, Kernel, PackedLinear, fits
from handler.linears.weight_blocks import quantise
from tests.support.packed import packed_by_torch

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [(16, 32), (48, 96), (192, 576), (576, 1536), (1000, 64)]


def packed(
    bits: int, out_features: int, in_features: int, dtype: torch.dtype, *, bias: bool = False, dense: bool = False
) -> PackedLinear:
    torch.manual_seed(out_features + in_features)
    blocks = quantise(torch.randn(out_features, in_features), bits)
    kept = blocks.dequantise(dtype) if dense else None
    return packed_by_torch(blocks, torch.randn(out_features) if bias else None, dtype, kept)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_are_within_half_a_level_of_the_weights(bits: int) -> None:
    weight = torch.randn(40, 96)
    weight[3] = 0.0
    weight[4, :32] = 0.25
    blocks = quantise(weight, bits)
    gap = (blocks.dequantise(torch.float32) - weight).abs().view(40, 3, 32)
    assert (gap <= blocks.scale[..., None] * 0.5001 + 1e-7).all()
    assert torch.equal(blocks.dequantise(torch.float32)[3], torch.zeros(96))


def test_large_weights_are_quantised_in_pieces_to_the_same_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(37, 64)
    whole = quantise(weight, 4)
    monkeypatch.setattr("handler.linears.weight_blocks._PIECE", 64 * 5)
    assert torch.equal(quantise(weight, 4).dequantise(torch.float32), whole.dequantise(torch.float32))


@pytest.mark.parametrize("shape", [s for s in SHAPES if fits(*s)], ids=str)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_that_of_the_dequantised_weights(bits: int, shape: tuple[int, int], dtype: torch.dtype) -> None:
    layer = packed(bits, *shape, dtype, bias=True)
    blocks = quantise(torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))), bits)
    x = torch.randn(2, 3, shape[1]).to(dtype)
    assert layer.bias is not None
    expected = F.linear(x.float(), blocks.dequantise(torch.float32), layer.bias.float())
    found = layer(x)
    assert found.shape == (2, 3, shape[0])
    assert found.dtype == dtype
    assert relative(found, expected) < (1e-5 if dtype is torch.float32 else 1e-2)
    assert relative(layer.weight, blocks.dequantise(torch.float32)) < (1e-6 if dtype is torch.float32 else 1e-2)


def test_a_shape_the_kernel_does_not_take_is_known() -> None:
    assert not fits(1000, 64)
    assert not fits(64, 48)
    assert fits(16, 32)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_rows_do_not_depend_on_their_neighbours(bits: int, dtype: torch.dtype) -> None:
    """A thousand rows and all numbers of them that meet other paths of the kernel, to the last bit."""
    layer = packed(bits, 576, 1536, dtype, dense=True)
    x = torch.randn(1000, 1536).to(dtype)
    with KERNEL.using(Kernel.PACKED):
        whole = layer(x)
        for count in [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100]:
            assert torch.equal(layer(x[:count]), whole[:count]), count
            assert torch.equal(layer(x[-count:]), whole[-count:]), count


def test_the_number_of_rows_chooses_the_weights_unless_one_is_asked_for() -> None:
    layer = packed(4, 64, 64, torch.float32)
    layer.dense = torch.zeros(64, 64)  # tells the two apart
    few, many = torch.randn(layer.max_packed_rows, 64), torch.randn(layer.max_packed_rows + 1, 64)
    assert layer(few).any()
    assert not layer(many).any()
    with KERNEL.using(Kernel.PACKED):
        assert layer(many).any()
        with KERNEL.using(Kernel.DENSE):
            assert not layer(few).any()
        assert layer(many).any()
    assert not layer(many).any()
    layer.dense = None
    assert layer(many).any()


@pytest.mark.parametrize("bits", [0, 4, 8])
@pytest.mark.parametrize("biased", [(), (0, 1, 2), (1,)])
def test_a_joined_layer_is_the_parts_side_by_side(bits: int, biased: tuple[int, ...]) -> None:
    sizes = (576, 192, 64)
    parts = [_part(bits, size, i in biased) for i, size in enumerate(sizes)]
    x = torch.randn(5, 96)
    expected = torch.cat([part(x) for part in parts], -1)
    whole = join(parts)
    assert whole is not None
    torch.testing.assert_close(whole(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat([part(x) for part in parts], -1), expected, atol=1e-5, rtol=1e-5)
    first = parts[0].packed if isinstance(parts[0], PackedLinear) else parts[0].weight
    held = whole.packed if isinstance(whole, PackedLinear) else whole.weight
    assert isinstance(first, Tensor)
    assert isinstance(held, Tensor)
    assert first.data_ptr() == held.data_ptr(), "the parts hold memory of their own"


def _part(bits: int, size: int, bias: bool) -> nn.Module:
    if bits:
        return packed(bits, size, 96, torch.float32, bias=bias, dense=bits == 4)
    return nn.Linear(96, size, bias=bias).requires_grad_(False)


def test_layers_of_different_kinds_are_not_joined() -> None:
    four, eight = packed(4, 64, 96, torch.float32), packed(8, 64, 96, torch.float32)
    assert join([four, eight]) is None
    assert join([four, nn.Linear(96, 64)]) is None
    assert join([four, packed(4, 64, 96, torch.float32, dense=True)]) is None
    assert join([nn.Linear(96, 64), nn.Linear(64, 64)]) is None
    assert join([packed(4, 48, 96, torch.float32), four]) is None, "48 rows end within what is packed together"
