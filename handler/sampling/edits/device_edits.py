"""Edits of logits on a GPU: all rows at once, each kind of change a few kernels however many rows ask for it.

Rows that do not ask get a neutral change. All that a step needs of the host goes up in the step's one upload.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handler.sampling.bitmask import POWERS, Words, common_bits, words_of
from handler.sampling.edits.amount_table import ONES, ZEROS, TableRows, amount_table
from handler.sampling.edits.penalties import RowEdit, green_ids, repetition_penalised
from handler.sampling.edits.token_amounts import TokenAmounts

_NEVER = float("-inf")


class DeviceEdits:
    """The edits of a batch: `edits[i]` is that of row `i`, None where it does not change."""

    def __init__(self, edits: list[RowEdit | None], vocab_size: int, device: torch.device) -> None:
        self.rows = list(range(len(edits)))
        self._edits = [(i, edit) for i, edit in enumerate(edits) if edit is not None]
        self._vocab_size = vocab_size
        self._penalised = _penalised(self._edits, vocab_size, device)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What must be uploaded for `apply`."""
        return self._amounts() | self._adds() | self._sets() | self._masks() | self._greens()

    def apply(self, logits: Tensor, sent: Mapping[str, Tensor]) -> Tensor:
        """Float32 copies `[n, vocab]` with the changes made; `logits` stays unchanged."""
        rows = logits.to(torch.float32, copy=True)
        if "green" in sent:
            rows += (common_bits(sent["green"], sent["powers"], self._vocab_size) != 0) * sent["green_bias"][:, None]
        if self._penalised:
            rows = self._penalise(rows, sent)
        flat = rows.view(-1)
        if "added" in sent:
            flat.index_add_(0, sent["added"], sent["added_values"])
        if "set" in sent:
            flat.scatter_(0, sent["set"], sent["set_values"])
        if "allowed" in sent:
            allowed = sent["allowed"]
            words = allowed.index_select(0, sent["allowed_rows"]) if "allowed_rows" in sent else allowed
            rows.masked_fill_(common_bits(words, sent["powers"], self._vocab_size) == 0, _NEVER)
        return rows

    def _penalise(self, rows: Tensor, sent: Mapping[str, Tensor]) -> Tensor:
        table = self._penalised[0][1].table.rows
        if "unset" in sent:
            table.index_put_((sent["unset"],), sent["unset_values"][:, None])
        if "entries" in sent:
            table.view(-1).scatter_(0, sent["entries"], sent["entry_values"])
        self._penalised[0][1].table.unset.clear()
        for _, own, _, _ in self._penalised:
            own.unwritten.clear()
        found = table.index_select(0, sent["table_rows"]).view(-1, *rows.shape)
        if any(amounts.repeats for _, _, amounts, _ in self._penalised):
            rows = repetition_penalised(rows, found[0])
        if any(amounts.subtracts for _, _, amounts, _ in self._penalised):
            charged = found[-1]
            rows -= charged * sent["per_count"][:, None] if "per_count" in sent else charged
        return rows

    def _amounts(self) -> dict[str, NDArray[Any]]:
        """Where the table holds each row's amounts, and what has come to the table's rows since the last step."""
        if not self._penalised:
            return {}
        num_rows = len(self.rows)
        factors, charges = np.full(num_rows, ONES), np.full(num_rows, ZEROS)
        per_count = np.ones(num_rows, np.float32)
        for i, own, amounts, edit in self._penalised:
            factors[i], charges[i] = own.factor, own.amount
            if amounts.by_length:
                per_count[i] = edit.seq.sampling.frequency_penalty / len(edit.seq.token_ids)
        repeats = any(amounts.repeats for _, _, amounts, _ in self._penalised)
        subtracts = any(amounts.subtracts for _, _, amounts, _ in self._penalised)
        found: dict[str, NDArray[Any]] = {"table_rows": np.concatenate([factors] * repeats + [charges] * subtracts)}
        if any(amounts.by_length for _, _, amounts, _ in self._penalised):
            found["per_count"] = per_count
        unset = self._penalised[0][1].table.unset
        if unset:
            found |= {"unset": np.array(list(unset)), "unset_values": np.array(list(unset.values()), np.float32)}
        return found | self._entries()

    def _entries(self) -> dict[str, NDArray[Any]]:
        ids: list[NDArray[Any]] = []
        values: list[NDArray[Any]] = []
        for _, own, amounts, edit in self._penalised:
            changed = sorted(own.unwritten)
            token_ids = amounts.ids[changed]
            if amounts.repeats:
                ids.append(own.factor * self._vocab_size + token_ids)
                values.append(np.full(len(changed), edit.seq.sampling.repetition_penalty, np.float32))
            if amounts.subtracts:
                ids.append(own.amount * self._vocab_size + token_ids)
                values.append(amounts.amounts[changed])
        found = {"entries": np.concatenate(ids), "entry_values": np.concatenate(values)}
        return found if len(found["entries"]) else {}

    def _adds(self) -> dict[str, NDArray[Any]]:
        added = {
            i * self._vocab_size + token_id: value
            for i, edit in self._edits
            for token_id, value in edit.seq.sampling.logit_bias.items()
        }
        if not added:
            return {}
        return {"added": np.array(list(added)), "added_values": np.array(list(added.values()), np.float32)}

    def _sets(self) -> dict[str, NDArray[Any]]:
        """Banned tokens, and 0 for a forced one, which nothing before it may forbid."""
        values = {i * self._vocab_size + token_id: _NEVER for i, edit in self._edits for token_id in edit.banned}
        values |= {i * self._vocab_size + edit.forced: 0.0 for i, edit in self._edits if edit.forced is not None}
        if not values:
            return {}
        return {"set": np.array(list(values)), "set_values": np.array(list(values.values()), np.float32)}

    def _masks(self) -> dict[str, NDArray[Any]]:
        """The sets of allowed tokens, with the set of all of them behind, for rows that forbid none."""
        masked = [(i, _allowed(edit, self._vocab_size)) for i, edit in self._edits if edit.masked]
        if not masked:
            return {}
        words = [found for _, found in masked]
        if len(masked) == len(self.rows):
            return {"powers": POWERS, "allowed": np.stack(words)}
        which = np.full(len(self.rows), len(masked))
        which[[i for i, _ in masked]] = np.arange(len(masked))
        return {"powers": POWERS, "allowed": np.stack([*words, np.full_like(words[0], -1)]), "allowed_rows": which}

    def _greens(self) -> dict[str, NDArray[Any]]:
        marked = [(i, edit) for i, edit in self._edits if edit.seq.sampling.watermark is not None]
        if not marked:
            return {}
        words = np.zeros((len(self.rows), len(words_of([], self._vocab_size))), np.int32)
        bias = np.zeros(len(self.rows), np.float32)
        for i, edit in marked:
            assert edit.seq.sampling.watermark is not None
            words[i] = words_of(green_ids(edit.seq, self._vocab_size).numpy(), self._vocab_size)
            bias[i] = edit.seq.sampling.watermark[1]
        return {"powers": POWERS, "green": words, "green_bias": bias}


def _penalised(
    edits: list[tuple[int, RowEdit]], vocab_size: int, device: torch.device
) -> list[tuple[int, TableRows, TokenAmounts, RowEdit]]:
    """The rows that have penalties, each with its sequence's rows of the table; their tokens are up to date."""
    found = [(i, edit, edit.amounts) for i, edit in edits if edit.amounts is not None]
    if not found:
        return []
    table = amount_table(vocab_size, device, 2 * sum(edit.seq.table_rows is None for _, edit, _ in found))
    rows: list[tuple[int, TableRows, TokenAmounts, RowEdit]] = []
    for i, edit, amounts in found:
        changed = amounts.update(edit.seq)
        if edit.seq.table_rows is None:
            edit.seq.table_rows = TableRows(table, amounts)
        own: TableRows = edit.seq.table_rows
        own.unwritten.update(changed)
        rows.append((i, own, amounts, edit))
    return rows


def _allowed(edit: RowEdit, vocab_size: int) -> Words:
    """The tokens that a row's mask allows."""
    seq = edit.seq
    words = None
    if edit.forced is not None:
        words = words_of([edit.forced], vocab_size)
    elif seq.sampling.allowed_token_ids:
        if seq.forbidden is None:
            seq.forbidden = words_of(seq.sampling.allowed_token_ids, vocab_size)
        words = seq.forbidden
    if seq.constraint is None:
        assert words is not None
        return words
    grammar: Words = seq.constraint.bits()
    return grammar if words is None else grammar & words
