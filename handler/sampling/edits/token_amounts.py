"""What repetition, frequency and presence penalties know of a sequence: its distinct tokens and an amount for each.

Kept on the host from step to step, so that a step adds one token and reads no text again. Numbers only, no torch.
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from handler.scheduling.sequence import Sequence

# Entries that the arrays grow by at least.
_LEAST_ROOM = 64


class TokenAmounts:
    """The distinct tokens that penalties look at, and what each is charged.

    These are the tokens of prompt and output, or of the output alone where only frequency and presence count. The
    amount is float32: OpenAI's `count * frequency + (count > 0) * presence` over the output, or the bare count
    over prompt and output, which TGI's formula divides by the length of each step.
    """

    def __init__(self, seq: Sequence) -> None:
        params = seq.sampling
        self.by_length = params.length_penalised_frequency and params.frequency_penalty != 0.0
        self.repeats = params.repetition_penalty != 1.0
        self.subtracts = bool(
            params.frequency_penalty or (params.presence_penalty and not params.length_penalised_frequency)
        )
        self._frequency = np.float32(params.frequency_penalty)
        self._presence = np.float32(params.presence_penalty)
        self._num_seen = 0 if self.repeats or self.by_length else seq.num_prompt_tokens
        self._known = False
        self._size = 0
        self._places: dict[int, int] = {}
        self._ids = np.zeros(_LEAST_ROOM, np.int64)
        self._counts = np.zeros(_LEAST_ROOM, np.float32)
        self._amounts = np.zeros(_LEAST_ROOM, np.float32)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The distinct tokens `[k]`."""
        return self._ids[: self._size]

    @property
    def amounts(self) -> NDArray[np.float32]:
        """The amount of each of `ids`, float32 `[k]`."""
        return self._amounts[: self._size]

    def copy(self) -> TokenAmounts:
        """The same knowledge, which grows apart."""
        found = copy.copy(self)
        found._places = dict(self._places)
        found._ids, found._counts, found._amounts = self._ids.copy(), self._counts.copy(), self._amounts.copy()
        return found

    def update(self, seq: Sequence) -> list[int]:
        """Take in the tokens that have come since the last call. Returns the places in `ids` that changed."""
        if self._num_seen < seq.num_prompt_tokens:
            self._take_prompt(seq.token_ids[: seq.num_prompt_tokens])
            self._num_seen = seq.num_prompt_tokens
        changed = [self._count(token_id) for token_id in seq.token_ids[self._num_seen :]]
        self._num_seen = len(seq.token_ids)
        places = changed if self._known else list(range(self._size))
        self._known = True
        counts = self._counts[places]
        self._amounts[places] = counts if self.by_length else self._charge(counts)
        return places

    def _take_prompt(self, token_ids: list[int]) -> None:
        self._ids, counts = np.unique(np.array(token_ids), return_counts=True)
        self._size = len(self._ids)
        self._places = {token_id: place for place, token_id in enumerate(self._ids.tolist())}
        self._counts = counts.astype(np.float32) if self.by_length else np.zeros(self._size, np.float32)
        self._amounts = np.zeros(self._size, np.float32)

    def _count(self, token_id: int) -> int:
        """Add one token of the output. Returns its place."""
        place = self._places.get(token_id, -1)
        if place < 0:
            place = self._places[token_id] = self._append(token_id)
        self._counts[place] += 1
        return place

    def _charge(self, counts: NDArray[np.float32]) -> NDArray[np.float32]:
        charged: NDArray[np.float32] = np.where(counts > 0, counts * self._frequency + self._presence, np.float32(0))
        return charged if self.subtracts else np.zeros_like(charged)

    def _append(self, token_id: int) -> int:
        if self._size == len(self._ids):
            self._ids, self._counts, self._amounts = (
                np.concatenate([array, np.zeros(max(_LEAST_ROOM, len(array)), array.dtype)])
                for array in (self._ids, self._counts, self._amounts)
            )
        self._ids[self._size] = token_id
        self._size += 1
        return self._size - 1
