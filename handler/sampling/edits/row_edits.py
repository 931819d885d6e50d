"""Edits of logits on CPU: copies of the rows that change, and of these rows only the tokens that change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handler.sampling.edits.penalties import RowEdit, green_ids, repetition_penalised
from handler.scheduling.sequence import Sequence

_NEVER = float("-inf")


class RowEdits:
    """The edits of a batch's `rows`."""

    def __init__(self, rows: list[int], edits: list[RowEdit], vocab_size: int) -> None:
        self.rows = rows
        self._edits = edits
        self._vocab_size = vocab_size

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What must be uploaded for `apply`."""
        return {"edited": np.array(self.rows)}

    def apply(self, logits: Tensor, sent: Mapping[str, Tensor]) -> Tensor:
        """Float32 copies `[len(rows), vocab]` with the changes made; `logits` `[n, vocab]` stays unchanged."""
        if len(self.rows) == len(logits):
            changed = logits.to(torch.float32, copy=True)
        else:
            changed = logits.index_select(0, sent["edited"]).float()
        for row, edit in zip(changed.unbind(), self._edits, strict=True):
            if edit.seq.sampling.watermark is not None:
                row[green_ids(edit.seq, self._vocab_size)] += edit.seq.sampling.watermark[1]
        flat = changed.view(-1)
        self._penalise(flat)
        self._bias(flat)
        self._ban(flat)
        for row, edit in zip(changed.unbind(), self._edits, strict=True):
            _mask(row, edit)
        return changed

    def _penalise(self, flat: Tensor) -> None:
        found = [(i, edit, edit.amounts) for i, edit in enumerate(self._edits) if edit.amounts is not None]
        if not found:
            return
        for _, edit, amounts in found:
            amounts.update(edit.seq)
        lengths = [len(amounts.ids) for _, _, amounts in found]
        index = torch.from_numpy(np.concatenate([a.ids + i * self._vocab_size for i, _, a in found]))
        scores = flat[index]
        if any(amounts.repeats for _, _, amounts in found):
            factors = np.array([edit.seq.sampling.repetition_penalty for _, edit, _ in found], np.float32)
            scores = repetition_penalised(scores, torch.from_numpy(np.repeat(factors, lengths)))
        if any(amounts.subtracts for _, _, amounts in found):
            scores -= torch.from_numpy(np.concatenate([_charged(edit) for _, edit, _ in found]))
        flat[index] = scores

    def _bias(self, flat: Tensor) -> None:
        biases = [edit.seq.sampling.logit_bias for edit in self._edits]
        if any(biases):
            ids = [i * self._vocab_size + token_id for i, bias in enumerate(biases) for token_id in bias]
            values = [value for bias in biases for value in bias.values()]
            flat.index_add_(0, torch.tensor(ids), torch.tensor(values, dtype=torch.float32))

    def _ban(self, flat: Tensor) -> None:
        ids = [i * self._vocab_size + token_id for i, edit in enumerate(self._edits) for token_id in edit.banned]
        if ids:
            flat[torch.tensor(ids)] = _NEVER


def _charged(edit: RowEdit) -> NDArray[np.float32]:
    """What each distinct token of the row is charged."""
    assert edit.amounts is not None
    if not edit.amounts.by_length:
        return edit.amounts.amounts
    share: NDArray[np.float32] = edit.amounts.amounts / np.float32(len(edit.seq.token_ids))
    return share * np.float32(edit.seq.sampling.frequency_penalty)


def _mask(row: Tensor, edit: RowEdit) -> None:
    if edit.forced is not None:
        row.fill_(_NEVER)
        row[edit.forced] = 0.0
    elif edit.seq.sampling.allowed_token_ids:
        row.masked_fill_(_forbidden(edit.seq, len(row)), _NEVER)
    if edit.seq.constraint is not None:
        row.masked_fill_(~edit.seq.constraint.mask(), _NEVER)


def _forbidden(seq: Sequence, vocab_size: int) -> Tensor:
    """Bool `[vocab]`, True for each token that is not allowed."""
    if seq.forbidden is None:
        seq.forbidden = torch.ones(vocab_size, dtype=torch.bool)
        seq.forbidden[torch.tensor(seq.sampling.allowed_token_ids)] = False
    mask: Tensor = seq.forbidden
    return mask
