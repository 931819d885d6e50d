"""What a layer over a quantised weight is made of, wherever the weight comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from handler.linears.product_check import Rows
from handler.linears.quantised_weight import Form


@dataclass(frozen=True, slots=True, eq=False)
class LayerSource:
    """What a layer is made of: `linear(bias)` is a `Linear` or None, `rows` the weights of some outputs.

    `dense()` is the weight without a layer. `form` is that of the codes, `num_bytes` the size of a stored weight.
    """

    name: str
    form: Form
    rows: Rows
    linear: Callable[[Tensor | None], nn.Module | None]
    dense: Callable[[], Tensor]
    num_bytes: int = 0
