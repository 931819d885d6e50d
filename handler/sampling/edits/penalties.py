"""What a sequence changes in its row of logits before temperature: watermark, penalties, bias, banned tokens, grammar.

The order is TGI's: watermark, repetition, frequency, presence; then bias and bans, the end of a thought whose budget is
used up, and the grammar last. This file says what is changed; `row_edits.py` and `device_edits.py` do it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from handler.sampling.edits.token_amounts import TokenAmounts
from handler.sampling.thinking import forced_token
from handler.scheduling.sequence import Sequence

# TGI's key, so that its detectors find our watermark.
_HASH_KEY = 15485863


@dataclass(frozen=True, slots=True, eq=False)
class RowEdit:
    """The changes to one row: `amounts` for its penalties, `banned` token ids, and the one token that is `forced`."""

    seq: Sequence
    amounts: TokenAmounts | None
    banned: list[int]
    forced: int | None

    @property
    def masked(self) -> bool:
        """True if a mask over the vocabulary says what is allowed."""
        return self.forced is not None or self.seq.constraint is not None or bool(self.seq.sampling.allowed_token_ids)


def row_edit(seq: Sequence, eos_token_ids: Collection[int]) -> RowEdit | None:
    """What `seq` asks for at its next token; None if its row stays as it is."""
    params = seq.sampling
    present = params.presence_penalty and not params.length_penalised_frequency
    counted = params.repetition_penalty != 1.0 or params.frequency_penalty or present
    banned = _banned_ids(seq, eos_token_ids)
    forced = forced_token(seq)
    if not (
        counted
        or params.logit_bias
        or params.watermark is not None
        or params.allowed_token_ids
        or seq.constraint is not None
        or banned
        or forced is not None
    ):
        return None
    if counted and seq.token_amounts is None:
        seq.token_amounts = TokenAmounts(seq)
    return RowEdit(seq, seq.token_amounts, banned, forced)


def repetition_penalised(scores: Tensor, factors: Tensor) -> Tensor:
    """CTRL's rule (Keskar 2019), as transformers and TGI apply it, for tokens of prompt and output."""
    return torch.where(scores < 0, scores * factors, scores / factors)


def green_ids(seq: Sequence, vocab_size: int) -> Tensor:
    """Kirchenbauer 2023 as in TGI: the previous token seeds which share of the vocabulary is green. Int64 on CPU."""
    assert seq.sampling.watermark is not None
    generator = torch.Generator().manual_seed(_HASH_KEY * seq.token_ids[-1])
    return torch.randperm(vocab_size, generator=generator)[: int(vocab_size * seq.sampling.watermark[0])]


def _banned_ids(seq: Sequence, eos_token_ids: Collection[int]) -> list[int]:
    """What ends an answer, while that is too early, and the last token of each bad word whose others end the output."""
    found: list[int] = []
    if seq.num_output_tokens < seq.sampling.min_tokens:
        found += sorted({*eos_token_ids, *seq.sampling.stop_token_ids})
    for *before, last in seq.sampling.bad_words:
        count = len(before)
        if not count or (count <= seq.num_output_tokens and seq.token_ids[-count:] == before):
            found.append(last)
    return found
