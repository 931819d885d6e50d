"""Linear layers whose weights are laid out once for the processor, by oneDNN.

`F.linear` lets oneDNN reorder a weight at every call. Done once, a call takes 0.4 to 0.6 of the time (AVX-512 with
bfloat16, 1 to 32 rows), and a row's result is the same whatever other rows are in the call. oneDNN also applies the
operation that follows, so that its operand is never written out.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

# Rows the layout is chosen for. No other choice from 1 to 256 was found to be faster for any number of rows.
_TYPICAL_ROWS = 16


def keep_rows_apart() -> None:
    """Keep oneDNN, if it has not run yet, from the matrix unit (AMX): there a row's sums depend on other rows.

    What the environment says already stays. `handler.linears.matrix_linear` uses the unit for the shapes that matter.
    """
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")


class DenseLinear(nn.Module):
    """`x W^T + b` on CPU, alone or with the operation that follows it. `x` `[..., K]` of the weight's dtype."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` `[N, K]` float32 or bfloat16 on CPU, copied; `bias` `[N]`."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _TYPICAL_ROWS)
        self.bias = None if bias is None else bias.detach()

    @property
    def weight(self) -> Tensor:
        """The weight as it was, bit for bit, in a new tensor."""
        dense: Tensor = self.packed.to_dense()
        return dense

    def forward(self, x: Tensor) -> Tensor:
        """`[..., N]`."""
        return self._alone(x, "none")

    def silu(self, x: Tensor) -> Tensor:
        """`silu(x W^T + b)`."""
        return self._alone(x, "swish")

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """`(x W^T + b) * other`, `other` `[..., N]`."""
        return self._with(x, other, "mul")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """`x W^T + b + other`, `other` `[..., N]`."""
        return self._with(x, other, "add")

    # The kernel for one row sums in another order than the one for several, and a row's numbers must not depend on
    # whether there are others: a lone row goes through twice. The time goes into reading the weights.

    def _alone(self, x: Tensor, operation: str) -> Tensor:
        if x.numel() == self.in_features:
            return self._alone(_twice(x), operation)[0].view(*x.shape[:-1], -1)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, operation, [], "")
        return out

    def _with(self, x: Tensor, other: Tensor, operation: str) -> Tensor:
        if x.numel() == self.in_features:
            return self._with(_twice(x), _twice(other), operation)[0].view(*x.shape[:-1], -1)
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.packed, self.bias, operation)
        return out


def _twice(row: Tensor) -> Tensor:
    return row.reshape(1, -1).repeat(2, 1)
