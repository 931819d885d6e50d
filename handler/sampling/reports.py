"""Log-probabilities of chosen tokens and of the most likely ones, for all rows that ask, read with the rest.

Raw ones are the model's own. Warped ones (TGI) are those of the distribution that was drawn from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from handler.seam.protocol import TokenLogprob

# A GPU looks for so many of the most likely tokens at least: which of two equal ones comes first may depend on how
# many are looked for, and must not depend on what neighbours ask.
_LEAST_TOP = 32


def num_sought(num_top: int, vocab_size: int, device: torch.device) -> int:
    """How many of the most likely tokens are looked for where `num_top` are wanted."""
    if not num_top or device.type == "cpu":
        return min(num_top, vocab_size)
    return min(vocab_size, max(_LEAST_TOP, 1 << (num_top - 1).bit_length()))


@dataclass(slots=True)
class _Part:
    """Rows reported alike: `tensors` hold the chosen log-probabilities `[r]` and, where sought, values and ids
    `[r, k]`."""

    rows: list[int | None]
    num_top: list[int]
    tensors: list[Tensor]


@dataclass(slots=True)
class Reports:
    """The log-probabilities of a step, on the device until `read` is given what `tensors` hold."""

    _parts: list[_Part] = field(default_factory=list)

    @property
    def tensors(self) -> list[Tensor]:
        """What is to be read back."""
        return [tensor for part in self._parts for tensor in part.tensors]

    def add(
        self, rows: Sequence[int | None], num_top: list[int], logprobs: Tensor, own: Tensor, ids: Tensor | None = None
    ) -> None:
        """Report `rows` of the batch, None for one that did not ask, from their `logprobs` `[r, k]`. `own` int64
        `[r, 1]` is the chosen token's place among them. `ids` `[r, k]` are the tokens, None if the place is the token.

        Rows that want equally many stand together.
        """
        chosen = logprobs.gather(1, own)[:, 0]
        first = 0
        for sought, members in groupby(num_sought(n, logprobs.shape[1], logprobs.device) for n in num_top):
            last = first + len(list(members))
            tensors = [chosen[first:last]]
            if sought:
                found = logprobs[first:last].topk(sought)
                names = found.indices if ids is None else ids[first:last].gather(1, found.indices)
                tensors += [found.values, names]
            self._parts.append(_Part(list(rows[first:last]), num_top[first:last], tensors))
            first = last

    def read(self, values: Iterable[list[Any]]) -> dict[int, TokenLogprob]:
        """The entry of each row of the batch, from the values of `tensors`."""
        left = iter(values)
        found: dict[int, TokenLogprob] = {}
        for part in self._parts:
            own, *best = [next(left) for _ in part.tensors]
            for i, row in enumerate(part.rows):
                if row is None:
                    continue
                top = _top(best[1][i], best[0][i], part.num_top[i]) if best else ()
                found[row] = TokenLogprob(own[i], top)
        return found


def _top(ids: Sequence[float], values: Sequence[float], num_top: int) -> tuple[tuple[int, float], ...]:
    """Tokens that cannot come, as under a grammar, are no alternatives: JSON has no minus infinity."""
    pairs = zip(ids[:num_top], values[:num_top], strict=True)
    return tuple((int(token_id), value) for token_id, value in pairs if math.isfinite(value))
