"""The amounts of penalties on a GPU: a row over the vocabulary for each sequence and kind of penalty that has one.

A step then uploads a token or two for each sequence, never its text. Rows hold float32 amounts rather than counts: one
kernel subtracts them, and the host has rounded them as CPU does. Memory is 4 bytes a token of the vocabulary
for each sequence with a repetition penalty, and again for each with another penalty; none without.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch

from handler.sampling.edits.token_amounts import TokenAmounts

# Rows of sequences without the penalty: factors of 1, amounts of 0.
ONES, ZEROS = 0, 1
_LEAST_ROWS = 8


class AmountTable:
    """`rows` float32 `[capacity, vocab]`. `unset` are rows that were taken, with the number that must fill each.

    The step that uses new rows fills all of them at once.
    """

    def __init__(self, vocab_size: int, device: torch.device, num_rows: int) -> None:
        self.rows = torch.empty(max(_LEAST_ROWS, 2 + num_rows), vocab_size, device=device)
        self.unset: dict[int, float] = {ONES: 1.0, ZEROS: 0.0}
        self._free = list(range(2, len(self.rows)))

    def reserve(self, num_rows: int) -> None:
        """Have so many free rows; the table at least doubles if it has not. Raises torch.OutOfMemoryError."""
        if len(self._free) < num_rows:
            size = len(self.rows)
            grown = self.rows.new_empty(size + max(size, num_rows), self.rows.shape[1])
            grown[:size].copy_(self.rows)
            self._free += range(size, len(grown))
            self.rows = grown

    def take(self, filled_with: float) -> int:
        """One of the free rows."""
        row = self._free.pop()
        self.unset[row] = filled_with
        return row

    def give(self, rows: Iterable[int]) -> None:
        """The rows are free again."""
        self._free += rows


class TableRows:
    """A sequence's rows: `factor` for its repetition penalty, `amount` for the others. Free when it is forgotten.

    `unwritten` are the places of its `TokenAmounts` that the table does not show yet.
    """

    def __init__(self, table: AmountTable, amounts: TokenAmounts) -> None:
        """`table` has two free rows."""
        self.table = table
        self.factor = table.take(1.0) if amounts.repeats else ONES
        self.amount = table.take(0.0) if amounts.subtracts else ZEROS
        self.unwritten: set[int] = set(range(len(amounts.ids)))
        weakref.finalize(self, table.give, [row for row in (self.factor, self.amount) if row > ZEROS])


# Alive as long as a sequence has rows in it.
_tables: weakref.WeakValueDictionary[tuple[torch.device, int], AmountTable] = weakref.WeakValueDictionary()


def amount_table(vocab_size: int, device: torch.device, num_rows: int) -> AmountTable:
    """The table of `device`, with `num_rows` free. Raises torch.OutOfMemoryError."""
    found = _tables.get((device, vocab_size))
    if found is None:
        found = _tables[device, vocab_size] = AmountTable(vocab_size, device, num_rows)
    found.reserve(num_rows)
    return found
