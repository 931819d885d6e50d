"""`OneDnnLinear`: dense weights that oneDNN prepacks once for the processor.

`F.linear` has oneDNN reorder a weight at every call. Prepacked, a call takes 0.4 to 0.6 of the time (AVX-512 with
bfloat16, 1 to 32 rows), and a row's result does not depend on the other rows. oneDNN also applies the operation that
follows, so its operand is never written out.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

# Rows the layout is chosen for. No other choice from 1 to 256 was faster for any number of rows.
_TYPICAL_ROWS = 16


def keep_onednn_off_amx() -> None:
    """Keep oneDNN from the matrix unit (AMX), where a row's sums depend on other rows. Call before its first use.

    A value already set in the environment stays. `KernelLinear` uses the unit for the shapes that matter.
    """
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")


class OneDnnLinear(nn.Module):
    """`Linear` on CPU; `x` has the weight's dtype."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` `[N, K]` float32 or bfloat16 on CPU, copied; `bias` `[N]`."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._prepacked = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _TYPICAL_ROWS)
        self.bias = None if bias is None else bias.detach()

    @property
    def weight(self) -> Tensor:
        """The original weight, bit for bit, in a new tensor."""
        dense: Tensor = self._prepacked.to_dense()
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

    # oneDNN sums one row in a different order than several. To keep results batch-invariant, a single row is computed
    # as a pair. Reading the weights is what takes time.

    def _alone(self, x: Tensor, operation: str) -> Tensor:
        if x.numel() == self.in_features:
            return self._alone(_twice(x), operation)[0].view(*x.shape[:-1], -1)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._prepacked, self.bias, operation, [], "")
        return out

    def _with(self, x: Tensor, other: Tensor, operation: str) -> Tensor:
        if x.numel() == self.in_features:
            return self._with(_twice(x), _twice(other), operation)[0].view(*x.shape[:-1], -1)
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._prepacked, self.bias, operation)
        return out


def _twice(row: Tensor) -> Tensor:
    return row.reshape(1, -1).repeat(2, 1)
