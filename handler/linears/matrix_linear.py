"""`DenseLinear` on a processor with a matrix unit (AMX), by a kernel of our own.

oneDNN's kernels for it sum a row in another order where other rows stand beside it, and for few rows wait for weights
that ours reads as fast as memory gives them. docs/decisions/0014.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from handler.kernels.compiler import multiplies_matrices, usable
from handler.linears.onednn_linear import DenseLinear
from handler.linears.product_layer import ProductLayer

# Outputs and inputs that the kernel takes at a time.
_OUTPUTS, _INPUTS = 64, 32


class MatrixLinear(ProductLayer, DenseLinear):
    """As its base, bfloat16, for shapes that `has_shape` takes."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` bfloat16 `[N, K]`, copied; `bias` `[N]`."""
        from handler.kernels.product.product import DenseProduct

        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.bias = None if bias is None else bias.detach()
        product = DenseProduct(weight.detach(), self.bias)
        self.product, self._tiles = product, product.tiles

    @property
    def weight(self) -> Tensor:
        """The weight as it was, bit for bit, in a new tensor."""
        from handler.kernels.product.tile_layout import untiled

        return untiled(self._tiles)


def has_shape(weight: Tensor) -> bool:
    """True if this machine has the kernel, for a weight of this type and shape."""
    num_outputs, num_inputs = weight.shape
    return (
        weight.dtype is torch.bfloat16
        and num_outputs % _OUTPUTS == 0
        and num_inputs % _INPUTS == 0
        and usable(weight.dtype)
        and multiplies_matrices()
    )
