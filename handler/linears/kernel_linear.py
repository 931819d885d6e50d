"""`KernelLinear`: weights of 4 to 8 bits or bfloat16 by our own kernels, one kernel for any number of rows.

A row's result is the same, to the last bit, whatever other rows there are, and packed weights need no dense copy beside
them. Scales and minima are not rounded to bfloat16. docs/decisions/0013; on a matrix unit (AMX) 0014: oneDNN's kernels
for it sum a row in another order where other rows stand beside it, and with few rows they wait longer for weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:  # where it runs, numba is loaded, which takes 0.3 s
    from handler.kernels.product.block_layout import PackedBlocks
    from handler.kernels.product.product import BlockProduct, DenseProduct

DENSE_BITS = 16


class KernelLinear(nn.Module):
    """`Linear`; activations are bfloat16. `bits` is 16 for bfloat16 weights."""

    def __init__(self, bits: int, product: BlockProduct | DenseProduct, bias: Tensor | None) -> None:
        """See `of_blocks` and `of_weight`."""
        super().__init__()
        self.bits, self.bias = bits, bias
        self.out_features, self.in_features = product.out_features, product.in_features
        # Plain attributes, no buffers: those cost half a microsecond at each look, and nothing moves this layer.
        self.product = product
        self.packed: PackedBlocks | None = None

    @property
    def rounds(self) -> bool:
        """True if activations are rounded to int8 where `ACTIVATION_DTYPE` says so."""
        return self.product.rounds

    @classmethod
    def of_blocks(cls, packed: PackedBlocks, bias: Tensor | None) -> KernelLinear:
        """Over `packed`, N a multiple of 64; `bias` `[N]` bfloat16."""
        from handler.kernels.product.product import BlockProduct

        made = cls(packed.form.bits, BlockProduct(packed, bias), bias)
        made.packed = packed
        return made

    @classmethod
    def of_weight(cls, weight: Tensor, bias: Tensor | None) -> KernelLinear:
        """Over `weight` bfloat16 `[N, K]`, copied, of a shape that `choice.has_dense_kernel` takes; `bias` `[N]`."""
        from handler.kernels.product.product import DenseProduct

        given = None if bias is None else bias.detach()
        return cls(DENSE_BITS, DenseProduct(weight.detach(), given), given)

    @classmethod
    def join(cls, parts: Sequence[KernelLinear], bias: Tensor | None) -> KernelLinear:
        """One layer with the outputs of all `parts`, packed in one form. They share its memory."""
        from handler.kernels.product.block_layout import cat
        from handler.kernels.product.product import BlockProduct

        packed = cat([one.packed for one in parts if one.packed is not None])
        for part, view in zip(parts, packed.split([one.out_features for one in parts]), strict=True):
            part.packed, part.product = view, BlockProduct(view, part.bias)
        return cls.of_blocks(packed, bias)

    @property
    def weight(self) -> Tensor:
        """The weights `[N, K]` in a new tensor: bfloat16 ones bit for bit; packed ones exactly as they multiply."""
        from handler.kernels.product.product import BlockProduct, DenseProduct
        from handler.kernels.product.tile_layout import untiled

        if isinstance(self.product, DenseProduct):
            return untiled(self.product.tiles)
        assert self.packed is not None
        identity = torch.eye(self.in_features, dtype=torch.bfloat16)
        return BlockProduct(self.packed, None)(identity).T.contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """`[..., K]` -> `[..., N]`."""
        return self.product(x)

    def silu(self, x: Tensor) -> Tensor:
        """`silu(y)`."""
        return self.product.silu(x)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """`y * other`, `other` `[..., N]`."""
        return self.product.times(x, other)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """`y + other`, `other` `[..., N]`."""
        return self.product.plus(x, other)

    def extra_repr(self) -> str:
        """As nn.Linear prints itself."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"
