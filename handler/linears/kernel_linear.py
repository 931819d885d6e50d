"""`PackedLinear` over our own kernel: one for any number of rows, so no dense copy is needed beside it.

A row's result is the same, to the last bit, whatever other rows there are. Weights are as exact as their blocks: scales
and minima are not rounded to bfloat16. docs/decisions/0013.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from handler.kernels.compiler import multiplies_bfloat16, multiplies_matrices, usable
from handler.linears.packed_linear import PackedLinear, fuse_bias, pack_blocks
from handler.linears.product_layer import ProductLayer
from handler.linears.weight_blocks import BLOCK, WeightBlocks

# Outputs that the kernel computes at a time, and that lie together.
_OUTPUTS, _GROUP = 64, 16


class BlockLinear(ProductLayer, PackedLinear):
    """`packed` and `scales_and_zeros` as `packed_for` makes them for it; activations are bfloat16."""

    def __init__(
        self, bits: int, packed: Tensor, scales_and_zeros: Tensor, bias: Tensor | None, dense: Tensor | None
    ) -> None:
        from handler.kernels.product.product import BlockProduct

        super().__init__(bits, packed, scales_and_zeros, bias, dense)
        self.product = BlockProduct(packed, scales_and_zeros, bias)

    @staticmethod
    def _shape(bits: int, packed: Tensor) -> tuple[int, int]:
        return packed.shape[0] * _GROUP, packed.shape[1] * BLOCK

    @classmethod
    def join(cls, parts: Sequence[PackedLinear]) -> PackedLinear:
        """As `PackedLinear.join`. The parts keep memory of their own: nobody calls them once they are joined."""
        packed, scales = (torch.cat([getattr(one, name) for one in parts]) for name in ("packed", "scales_and_zeros"))
        sizes = [one.out_features for one in parts]
        bias = fuse_bias([one.bias for one in parts], sizes, torch.empty(0, dtype=torch.bfloat16))
        return cls(parts[0].bits, packed, scales, bias, None)

    def lay_out(self) -> None:
        """Nothing to do: the weights lie as the kernel wants them."""

    def _unpack(self) -> Tensor:
        from handler.kernels.product.product import BlockProduct

        identity = torch.eye(self.in_features, dtype=torch.bfloat16)
        return BlockProduct(self.packed, self.scales_and_zeros, None)(identity).T.contiguous()


def computes_blocks(dtype: torch.dtype) -> bool:
    """True if this machine has the kernel for activations of `dtype`: numba, and AVX-512 with bfloat16."""
    return dtype is torch.bfloat16 and usable(dtype) and multiplies_bfloat16()


def packed_for(blocks: WeightBlocks, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`packed` and `scales_and_zeros` for the best layer this machine has for `blocks`; `packed_linear` makes it."""
    if not computes_blocks(dtype) or blocks.codes.shape[0] % _OUTPUTS:
        return pack_blocks(blocks, dtype)
    from handler.kernels.product.block_layout import packed_codes, packed_scales
    from handler.kernels.product.tile_layout import tiled_codes

    if not (_fits_half(blocks.scale) and _fits_half(blocks.minimum)):
        return pack_blocks(blocks, dtype)
    lay_out = tiled_codes if multiplies_matrices() else packed_codes
    return lay_out(blocks.codes, blocks.bits), packed_scales(blocks.scale, blocks.minimum)


def packed_linear(
    bits: int, packed: Tensor, scales_and_zeros: Tensor, bias: Tensor | None, dense: Tensor | None
) -> PackedLinear:
    """The layer whose layout `packed` has. `dense` is kept where the layer has use for it."""
    if packed.dim() > 2:
        return BlockLinear(bits, packed, scales_and_zeros, bias, None)
    return PackedLinear(bits, packed, scales_and_zeros, bias, dense)


def _fits_half(numbers: Tensor) -> bool:
    """True if float16 holds all of them with its full precision, or zero."""
    sizes = numbers.abs()
    limits = torch.finfo(torch.float16)
    return bool(((sizes == 0) | ((sizes >= limits.tiny) & (sizes <= limits.max))).all())
