"""Sets of tokens as bits: int32 words `[ceil(vocab / 32)]`, the lowest bit first, as llguidance fills them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[np.int32]
# One bit of a word each.
POWERS: Words = (np.uint32(1) << np.arange(32, dtype=np.uint32)).view(np.int32)


def num_words(vocab_size: int) -> int:
    """Words for a set of that many tokens."""
    return -(-vocab_size // 32)


def words_of(token_ids: Collection[int] | NDArray[np.int64], vocab_size: int) -> Words:
    """The set that holds exactly these tokens."""
    flags = np.zeros(num_words(vocab_size) * 32, np.bool_)
    flags[np.asarray(token_ids, np.int64)] = True
    return np.packbits(flags, bitorder="little").view(np.int32)


def flags_of(words: Words, vocab_size: int) -> Tensor:
    """Bool `[vocab]` on CPU, True for each token of the set."""
    return torch.from_numpy(np.unpackbits(words.view(np.uint8), bitorder="little")[:vocab_size].view(np.bool_))


def common_bits(words: Tensor, powers: Tensor, vocab_size: int) -> Tensor:
    """Int32 `[n, vocab]`, not 0 for each token of the sets `words` int32 `[n, k]`; `powers` is `POWERS`."""
    return (words[:, :, None] & powers).flatten(1)[:, :vocab_size]
