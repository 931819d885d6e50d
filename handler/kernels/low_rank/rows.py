"""Rows of a pass and what adapters add to them, as kernels take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Numbers of a table's entry: an address (0: nothing), a count, and a place or an address. Kernels read them.
ENTRY = 3
# Bytes of a row's slot.
ROW_BYTES = 8


@dataclass(frozen=True, slots=True, eq=False)
class ShrunkRows:
    """`slots` int64 `[T]`, -1 for none, and `numbers` float32 `[T, width]`: `scaling * (x A^T)`."""

    slots: Tensor
    numbers: Tensor

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return self.numbers.shape[1]


class UpTable:
    """B of one product, for each slot. The outputs are divided into sections, as a joined layer's are."""

    def __init__(self, sizes: Sequence[int], num_slots: int) -> None:
        """`sizes`: outputs of each section."""
        self.ends: NDArray[np.int64] = np.cumsum(np.array(sizes, np.int64))
        # Address of B as `[N / 64, r, 64]`, r, where its inputs begin in a shrunk row.
        self.entries = np.zeros((num_slots, len(sizes), ENTRY), np.int64)

    def has_term(self, slots: Tensor) -> Tensor:
        """Bool `[T]`: whether rows of `slots` int64 `[T]` add anything."""
        some = torch.from_numpy((self.entries[:, :, 0] != 0).any(1))
        return some[slots.clamp(min=0)] & (slots >= 0)

    def grow(self, num_slots: int) -> None:
        """Make room for more slots; the address of entries changes."""
        entries = np.zeros((num_slots, *self.entries.shape[1:]), np.int64)
        entries[: len(self.entries)] = self.entries
        self.entries = entries

    @property
    def arguments(self) -> tuple[int, int, int]:
        """Addresses of entries and ends, and the number of sections."""
        return self.entries.ctypes.data, self.ends.ctypes.data, len(self.ends)


class Term(NamedTuple):
    """What adapters add to the rows of one product."""

    rows: ShrunkRows
    up: UpTable


class TermRows(NamedTuple):
    """The same in a program: addresses of shrunk rows, of `width` numbers, and of their slots.

    `ahead`: what the product fetches meanwhile, as `low_rank.ahead` takes it.
    """

    shrunk: int
    slots: int
    width: int
    up: UpTable
    ahead: tuple[int, int, int, int] = (0, 0, 0, 1)
