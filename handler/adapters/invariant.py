"""A product in which a row's result does not depend on how many rows there are, where torch has such a one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from handler.linears.choice import can_prepack


def product(x: Tensor, weight: Tensor) -> Tensor:
    """`x W^T` for `x` `[T, K]` and a weight `[N, K]` of one dtype.

    On CPU by oneDNN, which sums one row in another order than several, so a single row is computed as a pair. The
    weight is not prepacked: for one as thin as A and B a call gains nothing, and to prepack one takes 0.1 ms and more,
    which hundreds of them would cost the thread of the loop.
    """
    if not can_prepack(weight.device, weight.dtype):
        return F.linear(x, weight)
    rows = x.repeat(2, 1) if len(x) == 1 else x.contiguous()
    out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight.contiguous(), None, "none", [], "")
    return out[: len(x)]
