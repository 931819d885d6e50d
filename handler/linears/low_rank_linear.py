"""`LowRankLinear`: a layer's product with what the adapters of its rows add, whatever layer multiplies.

Rows without an adapter keep their bits. A kernel of ours adds before it rounds, in its one pass over the weights. Of
other layers the output is finished: what adapters add is added to it, and for SiLU, which is not linear, rows with an
adapter are multiplied apart from the others. docs/decisions/0140.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from handler.kernels.low_rank import expand
from handler.kernels.low_rank.low_rank import expand_into
from handler.kernels.low_rank.rows import ShrunkRows, Term, UpTable
from handler.linears.join import SideBySide
from handler.linears.kernel_linear import KernelLinear
from handler.linears.linear import Linear
from handler.linears.ordered_linear import OrderedLinear


def parts_of(linear: Linear) -> tuple[Linear, ...]:
    """The layers that each have a product of their own, in the order of their outputs."""
    return linear.layers if isinstance(linear, SideBySide) else (linear,)


class LowRankLinear:
    """As `Linear`, with the rows' adapters. `x` `[..., K]` has as many rows as `rows`."""

    def __init__(self, linear: Linear, ups: Sequence[UpTable]) -> None:
        """`ups`: for each of the `parts_of` the layer."""
        self._parts = tuple(zip(parts_of(linear), ups, strict=True))

    def forward(self, x: Tensor, rows: ShrunkRows) -> Tensor:
        """`y`, the product and what adapters add."""
        outputs = [_forward(part, x, Term(rows, up)) for part, up in self._parts]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)

    def silu(self, x: Tensor, rows: ShrunkRows) -> Tensor:
        """`silu(y)`."""
        ((linear, up),) = self._parts
        return _silu(linear, x, Term(rows, up))

    def times(self, x: Tensor, other: Tensor, rows: ShrunkRows) -> Tensor:
        """`y * other`, `other` `[..., N]`."""
        ((linear, up),) = self._parts
        return _times(linear, x, other, Term(rows, up))

    def plus(self, x: Tensor, other: Tensor, rows: ShrunkRows) -> Tensor:
        """`y + other`, `other` `[..., N]`."""
        ((linear, up),) = self._parts
        return _plus(linear, x, other, Term(rows, up))


def _forward(linear: Linear, x: Tensor, term: Term) -> Tensor:
    if isinstance(linear, OrderedLinear):
        return _forward(linear.layer, linear.selected(x), term)
    if isinstance(linear, KernelLinear):
        return linear.product(x, term)
    out = linear.forward(x).contiguous()
    expand_into(out, term)
    return out


def _silu(linear: Linear, x: Tensor, term: Term) -> Tensor:
    if isinstance(linear, OrderedLinear):
        return _silu(linear.layer, linear.selected(x), term)
    if isinstance(linear, KernelLinear):
        return linear.product.silu(x, term)
    with_term = term.up.has_term(term.rows.slots)
    if not bool(with_term.any()):
        return linear.silu(x)
    if bool(with_term.all()):
        return _then_silu(linear.forward(x), term)
    flat = x.reshape(-1, x.shape[-1])
    ours, others = with_term.nonzero()[:, 0], (~with_term).nonzero()[:, 0]
    out = flat.new_empty(len(flat), linear.out_features)
    out[others] = linear.silu(flat[others])
    rows = ShrunkRows(term.rows.slots[ours], term.rows.numbers[ours])
    out[ours] = _then_silu(linear.forward(flat[ours]), Term(rows, term.up))
    return out.view(*x.shape[:-1], -1)


def _then_silu(out: Tensor, term: Term) -> Tensor:
    out = out.contiguous()
    expand_into(out, term, expand.ADD_THEN_SILU)
    return out


def _times(linear: Linear, x: Tensor, other: Tensor, term: Term) -> Tensor:
    if isinstance(linear, OrderedLinear):
        return _times(linear.layer, linear.selected(x), other, term)
    if isinstance(linear, KernelLinear):
        return linear.product.times(x, other, term)
    out = linear.times(x, other).contiguous()
    expand_into(out, term, expand.ADD_TIMES, other)
    return out


def _plus(linear: Linear, x: Tensor, other: Tensor, term: Term) -> Tensor:
    if isinstance(linear, OrderedLinear):
        return _plus(linear.layer, linear.selected(x), other, term)
    if isinstance(linear, KernelLinear):
        return linear.product.plus(x, other, term)
    out = linear.plus(x, other).contiguous()
    expand_into(out, term)
    return out
