"""`ScheduledBatch` -> the tensors of one forward pass. Decoding rows come first, ordered by slot, then chunks."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from handler.adapters.rows import BASE
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence

# Key lengths are rounded up to this. The CPU kernel's result does not depend on the number of masked keys that follow,
# as long as it is a multiple of the vector width. So rows of any lengths may share a call.
LENGTH_BUCKET = 16
# With more separate runs of slots than this, one call over all of them, idle slots included, costs less.
_MAX_RUNS = 4
# A run of rows is split where that avoids reading this many keys; fewer are not worth another call.
_KEYS_WORTH_A_CALL = 1024


@dataclass(slots=True, eq=False)
class DecodeGroup:
    """Rows `[first_row, first_row + n)` decode in slots `[first_slot, first_slot + n_slots)` over `length` keys.

    `rows` is None when each slot of the range decodes, else the offsets of the decoding slots in the range.
    `positions` `[n_slots]` is the newest position per slot; idle slots have 0.
    """

    first_row: int
    num_rows: int
    first_slot: int
    num_slots: int
    length: int
    rows: Tensor | None
    positions: Tensor
    _masks: dict[tuple[int, torch.device], Tensor] = field(default_factory=dict)
    _rows: dict[torch.device, Tensor] = field(default_factory=dict)

    def rows_on(self, device: torch.device) -> Tensor | None:
        """`rows` on a layer's device, copied once for each where a model is spread over several."""
        if self.rows is None or self.rows.device == device:
            return self.rows
        if device not in self._rows:
            self._rows[device] = self.rows.to(device)
        return self._rows[device]

    def mask(self, window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Additive mask `[n_slots, 1, 1, length]`: 0 where a row may look, -inf elsewhere; window 0 is unlimited."""
        found = self._masks.get((window, device))
        if found is None:
            keys = torch.arange(self.length, device=device)[None]
            newest = self.positions.to(device)[:, None]
            hidden = keys > newest
            if window:
                hidden |= keys <= newest - window
            found = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            found = found.masked_fill_(hidden, float("-inf"))[:, None, None]
            self._masks[window, device] = found
        return found


@dataclass(slots=True, eq=False)
class PrefillChunk:
    """Rows `[first_row, first_row + num_rows)` are positions `[start, start + num_rows)` of the sequence in `slot`.

    They look at `length` keys of the slot, its beginning, of which the last few may be masked.
    """

    first_row: int
    num_rows: int
    slot: int
    start: int
    length: int
    _masks: dict[tuple[int, torch.device], Tensor] = field(default_factory=dict)

    @property
    def slots(self) -> slice:
        """The slot, as a range of one."""
        return slice(self.slot, self.slot + 1)

    def mask(self, window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Additive mask `[num_rows, length]`: 0 where a row may look, -inf elsewhere; window 0 is unlimited."""
        found = self._masks.get((window, device))
        if found is None:
            keys = torch.arange(self.length, device=device)[None]
            queries = torch.arange(self.start, self.start + self.num_rows, device=device)[:, None]
            hidden = keys > queries
            if window:
                hidden |= keys <= queries - window
            found = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
            self._masks[window, device] = found
        return found


@dataclass(slots=True, eq=False)
class ModelInput:
    """One forward pass of T flattened tokens.

    `input_ids`, `position_ids` int64 `[1, T]`; `flat_index` int64 `[T]`, where each token's key goes in the cache;
    `logits_index` int64 `[S + P]`, the rows whose logits are wanted: first the S that choose a token, in the order of
    `samples` and of their drafts, then all rows of the chunks in `scored`, whose requests want prompt
    log-probabilities. `adapter_slots` int64 `[T]` are the rows' where any has one, -1 for none.
    """

    input_ids: Tensor
    position_ids: Tensor
    flat_index: Tensor
    logits_index: Tensor
    samples: list[ScheduledSequence]
    scored: list[ScheduledSequence]
    decodes: list[DecodeGroup]
    chunks: list[PrefillChunk]
    adapter_slots: Tensor | None = None


def build_model_input(batch: ScheduledBatch, max_len: int, device: torch.device) -> ModelInput:
    """Flatten the batch. Rows: single tokens ordered by slot, then drafts, then prompt chunks.

    `max_len` is a slot's, in tokens.
    """
    singles = sorted((item for item in batch.items if item.num_tokens == 1), key=lambda item: item.seq.slot)
    drafts = [item for item in batch.items if item.draft]
    longer = [item for item in batch.items if item.num_tokens > 1 and not item.draft]
    ids: list[int] = []
    positions: list[int] = []
    flat: list[int] = []
    sample_rows: list[int] = []
    samples: list[ScheduledSequence] = []
    scored: list[ScheduledSequence] = []
    scored_rows: list[int] = []
    chunks: list[PrefillChunk] = []
    slots: list[int] = []
    decodes = _group(singles, device)
    for item in (*singles, *drafts, *longer):
        end = item.start + item.num_tokens
        if item.draft:
            # As if each token came alone: a row's bits must not depend on the others.
            decodes += [_decode_group([row], len(ids) + i, device) for i, row in enumerate(item.rows())]
        elif item.num_tokens > 1:
            chunks.append(PrefillChunk(len(ids), item.num_tokens, item.seq.slot, item.start, bucket(end)))
        if item.scores_prompt:
            scored.append(item)
            scored_rows += range(len(ids), len(ids) + item.num_tokens)
        ids += item.token_ids
        positions += range(item.start, end)
        slots += [item.seq.adapter_slot] * item.num_tokens
        flat += range(item.seq.slot * max_len + item.start, item.seq.slot * max_len + end)
        if item.samples:
            sample_rows += range(len(ids) - 1 - len(item.draft), len(ids))
            samples.append(item)
    some = any(slot != BASE for slot in slots)
    return ModelInput(
        input_ids=torch.tensor([ids], device=device),
        position_ids=torch.tensor([positions], device=device),
        flat_index=torch.tensor(flat, device=device),
        logits_index=torch.tensor(sample_rows + scored_rows, dtype=torch.long, device=device),
        samples=samples,
        scored=scored,
        decodes=decodes,
        chunks=chunks,
        adapter_slots=torch.tensor(slots, device=device) if some else None,
    )


def bucket(length: int) -> int:
    """`length` rounded up to whole buckets."""
    return -(-length // LENGTH_BUCKET) * LENGTH_BUCKET


def _group(singles: list[ScheduledSequence], device: torch.device) -> list[DecodeGroup]:
    """Group rows by neighbouring slots and similar lengths; each group is one view of the cache."""
    runs: list[list[ScheduledSequence]] = []
    for item in singles:
        if runs and runs[-1][-1].seq.slot + 1 == item.seq.slot:
            runs[-1].append(item)
        else:
            runs.append([item])
    if len(runs) > _MAX_RUNS:
        runs = [singles]
    runs = [part for run in runs for part in _split_by_length(run)]
    groups: list[DecodeGroup] = []
    row = 0
    for run in runs:
        groups.append(_decode_group(run, row, device))
        row += len(run)
    return groups


def _split_by_length(run: list[ScheduledSequence]) -> list[list[ScheduledSequence]]:
    """Cut `run` where its longest sequences end, as long as a cut avoids enough reading."""
    longest_after = list(accumulate((item.start for item in reversed(run)), max))[::-1]
    whole = longest_after[0] * len(run)
    before, best, cut = 0, whole - _KEYS_WORTH_A_CALL, 0
    for i in range(1, len(run)):
        before = max(before, run[i - 1].start)
        cost = before * i + longest_after[i] * (len(run) - i)
        if cost < best:
            best, cut = cost, i
    return [*_split_by_length(run[:cut]), *_split_by_length(run[cut:])] if cut else [run]


def _decode_group(run: list[ScheduledSequence], row: int, device: torch.device) -> DecodeGroup:
    first, last = run[0].seq.slot, run[-1].seq.slot
    num_slots = last - first + 1
    positions = [0] * num_slots
    for item in run:
        positions[item.seq.slot - first] = item.start
    longest = max(positions) + 1
    gaps = num_slots != len(run)
    return DecodeGroup(
        first_row=row,
        num_rows=len(run),
        first_slot=first,
        num_slots=num_slots,
        length=bucket(longest),
        rows=torch.tensor([item.seq.slot - first for item in run], device=device) if gaps else None,
        positions=torch.tensor(positions, device=device),
    )
