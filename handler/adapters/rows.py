"""`AdapterRows`: which resident adapter each row of the running pass uses. The runner sets it around `forward`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

# The slot of a row that uses the base alone.
BASE = -1


@dataclass(frozen=True, slots=True, eq=False)
class AdapterRows:
    """`slots` int32 `[T]` on the model's device, BASE or a slot, for each row of the flattened hidden states.

    `output_slots` int32 `[S]` is the same for the rows that reach the output layer, where these are fewer. `used` are
    the distinct slots, ascending; none: the pass is the base's, and nothing of adapters may cost anything. `index` and
    `output_index` hold for each used slot the rows that use it, int64, on the model's device.
    """

    slots: Tensor
    output_slots: Tensor
    used: tuple[int, ...]
    index: dict[int, Tensor]
    output_index: dict[int, Tensor]

    @classmethod
    def of(
        cls, slots: Sequence[int], output_slots: Sequence[int] | None = None, device: torch.device | str = "cpu"
    ) -> AdapterRows:
        """Rows with these slots; `output_slots` are the same if None."""
        own = torch.tensor(slots, dtype=torch.int32)
        output = own if output_slots is None else torch.tensor(output_slots, dtype=torch.int32)
        used = tuple(sorted({slot for slot in slots if slot != BASE}))
        return cls(own.to(device), output.to(device), used, _index(own, used, device), _index(output, used, device))


def _index(slots: Tensor, used: tuple[int, ...], device: torch.device | str) -> dict[int, Tensor]:
    return {slot: (slots == slot).nonzero()[:, 0].to(device) for slot in used}


_current: ContextVar[AdapterRows | None] = ContextVar("adapter_rows", default=None)


def current_rows() -> AdapterRows | None:
    """The rows of the running pass; None in a pass of the base alone."""
    rows = _current.get()
    return rows if rows is not None and rows.used else None


@contextmanager
def adapter_rows(rows: AdapterRows | None) -> Iterator[None]:
    """Let `rows` be the current ones inside."""
    token = _current.set(rows)
    try:
        yield
    finally:
        _current.reset(token)
