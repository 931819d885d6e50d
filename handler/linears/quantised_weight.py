"""The one form of quantised weights between files and layers: codes in groups that share a scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Weights dequantised at a time: bounds the float32 copy made on the way.
_PIECE = 1 << 23


@dataclass(frozen=True, slots=True)
class Form:
    """What weights have in common that one kernel reads in one way; `table` is its number of values, 0 for none."""

    bits: int
    group: int
    zero: float = 0.0
    table: int = 0
    has_minimum: bool = False
    has_order: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of a weight before it is read: its shape `[..., N, K]`, its form, and its bytes in a file."""

    shape: tuple[int, ...]
    form: Form
    num_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedWeight:
    """A matrix `[N, K]`, or experts `[E, N, K]`, with `w = scale * (value(code) - zero) + minimum`.

    `codes` uint8 `[..., N, K]`, below `2 ** bits`; `scale` float32 `[..., N, K / group]`; `minimum` like `scale`, or
    None for 0. `value(code)` is the code itself, or `table[code]`: float32 `[2 ** bits]`, for floats of 4 or 8 bits and
    for codebooks. If `order` int64 `[K]` is given, column j of the codes is input `order[j]` (act-order).
    """

    bits: int
    codes: Tensor
    scale: Tensor
    minimum: Tensor | None = None
    zero: float = 0.0
    table: Tensor | None = None
    order: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """`[N, K]` or `[E, N, K]`."""
        return self.codes.shape

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return self.codes.shape[-1] // self.scale.shape[-1]

    @property
    def form(self) -> Form:
        """Its form."""
        table = 0 if self.table is None else len(self.table)
        return Form(self.bits, self.group, self.zero, table, self.minimum is not None, self.order is not None)

    @property
    def stored_bytes(self) -> int:
        """Bytes that files hold it in, about: codes in their bits, scales and minima in two bytes."""
        scales = self.scale.numel() * (1 if self.minimum is None else 2)
        return self.codes.numel() * self.bits // 8 + 2 * scales

    def to(self, device: torch.device | str) -> QuantisedWeight:
        """All tensors on `device`."""
        codes, scale = self.codes.to(device), self.scale.to(device)
        minimum, table, order = (_moved(each, device) for each in (self.minimum, self.table, self.order))
        return replace(self, codes=codes, scale=scale, minimum=minimum, table=table, order=order)

    def rows(self, index: slice | Tensor) -> QuantisedWeight:
        """The outputs of `index` along N, in its order."""
        minimum = None if self.minimum is None else self.minimum[..., index, :]
        return replace(self, codes=self.codes[..., index, :], scale=self.scale[..., index, :], minimum=minimum)

    def expert(self, index: int) -> QuantisedWeight:
        """The matrix of one expert."""
        minimum = None if self.minimum is None else self.minimum[index]
        return replace(self, codes=self.codes[index], scale=self.scale[index], minimum=minimum)

    def dequantise(self, dtype: torch.dtype) -> Tensor:
        """The weights `[..., N, K]` with inputs in their own order, computed in float32 and rounded once."""
        out = torch.empty(self.codes.shape, dtype=dtype, device=self.codes.device)
        flat = out.view(-1, out.shape[-1])
        codes, scale = self.codes.reshape(flat.shape), self.scale.reshape(flat.shape[0], -1)
        minimum = None if self.minimum is None else self.minimum.reshape(flat.shape[0], -1)
        step = max(1, _PIECE // flat.shape[1])
        for first in range(0, flat.shape[0], step):
            rows = slice(first, first + step)
            piece = self._values(codes[rows], scale[rows], None if minimum is None else minimum[rows]).to(dtype)
            if self.order is None:
                flat[rows] = piece
            else:
                flat[rows, :] = torch.empty_like(piece).index_copy_(1, self.order, piece)
        return out

    def _values(self, codes: Tensor, scale: Tensor, minimum: Tensor | None) -> Tensor:
        values = codes.float() if self.table is None else self.table[codes.int()]
        grouped = values.view(*scale.shape, -1)
        if self.zero:
            grouped = grouped - self.zero
        grouped = grouped * scale[..., None]
        return (grouped if minimum is None else grouped + minimum[..., None]).view(codes.shape)


def _moved(tensor: Tensor | None, device: torch.device | str) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


def cat(weights: list[QuantisedWeight]) -> QuantisedWeight | None:
    """One weight with the outputs of all, along N; None if their forms differ."""
    return _joined(weights, lambda parts: torch.cat(parts, -2))


def stack(weights: list[QuantisedWeight]) -> QuantisedWeight | None:
    """Experts `[E, N, K]` of matrices `[N, K]`; None if their forms differ."""
    return _joined(weights, torch.stack)


def _joined(weights: list[QuantisedWeight], join: Callable[[list[Tensor]], Tensor]) -> QuantisedWeight | None:
    first = weights[0]
    if any(not _same_form(first, each) for each in weights[1:]):
        return None
    minimum = None
    if first.minimum is not None:
        minimum = join([each.minimum for each in weights if each.minimum is not None])
    codes, scale = join([each.codes for each in weights]), join([each.scale for each in weights])
    return replace(first, codes=codes, scale=scale, minimum=minimum)


def _same_form(one: QuantisedWeight, other: QuantisedWeight) -> bool:
    """True if nothing but codes, scales and minima differs."""
    numbers = [(each.bits, each.group, each.shape[-1], each.zero, each.minimum is None) for each in (one, other)]
    return numbers[0] == numbers[1] and _equal(one.table, other.table) and _equal(one.order, other.order)


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    # Two codes of e4m3 are NaN, which equals nothing.
    return torch.equal(one.nan_to_num(), other.nan_to_num())
