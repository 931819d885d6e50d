"""What linear layers over our own products have in common: all they do is the product's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:  # where it runs, numba is loaded, which takes 0.3 s
    from handler.kernels.product.product import BlockProduct, DenseProduct


class ProductLayer:
    """To be inherited from before the class whose methods these replace. Activations are bfloat16."""

    product: BlockProduct | DenseProduct

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
