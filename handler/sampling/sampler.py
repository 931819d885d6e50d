"""Logits -> one token for each sequence, with its log-probability if requested: one pass over the whole batch.

All randomness is keyed by (request seed, token index); see randomness.py. No operation here mixes rows, so a row that
is not finite fails alone. A GPU is waited for once, when everything is read; a second time only where a nucleus
reaches beyond the first candidates.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handler.sampling.draws import Draws, draw
from handler.sampling.edits.device_edits import DeviceEdits
from handler.sampling.edits.penalties import RowEdit, row_edit
from handler.sampling.edits.row_edits import RowEdits
from handler.sampling.plan import plan_draws
from handler.sampling.randomness import uniform
from handler.sampling.reports import Reports, num_sought
from handler.sampling.transfer import read_back, upload
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import ErrorCode, TokenLogprob

# The argmax of a row is found in parts of up to `_PART` logits; parts below `_MIN_PART` do not pay.
_PART, _MIN_PART = 256, 32


@dataclass(frozen=True, slots=True)
class Sampled:
    """The outcome for one row: a token, or `error` and `message` if the row failed."""

    token_id: int | None
    logprob: TokenLogprob | None = None
    error: ErrorCode | None = None
    message: str = ""


_NOT_FINITE = Sampled(None, error=ErrorCode.NUMERICS, message="the model's output for this request is not a number")
_NOTHING_ALLOWED = Sampled(
    None, error=ErrorCode.INTERNAL, message="grammar, bias, bad words and penalties together leave no token to choose"
)
_NONE_OF_THE_ALLOWED = Sampled(
    None,
    error=ErrorCode.INVALID,
    message="no token of `allowed_token_ids` may follow: grammar, bad words, bias or `min_tokens` exclude them all",
)


def sample(logits: Tensor, seqs: list[Sequence], eos_token_ids: Collection[int]) -> list[Sampled]:
    """Choose a token for each row of `logits` `[len(seqs), vocab]`, any float dtype."""
    edits = [row_edit(seq, eos_token_ids) for seq in seqs]
    plain = all(seq.sampling.temperature == 0.0 and seq.sampling.num_logprobs is None for seq in seqs)
    if plain and not any(edits):
        largest, tokens = read_back(_largest(logits))
        return [_outcome(*each, None) for each in zip(seqs, largest, largest, tokens, strict=True)]
    return _Pass(logits, seqs, edits).sample()


class _Pass:
    """One batch on its way from logits to tokens.

    `best` and `tokens` `[n]` are the maxima of the rows after their edits and, for rows that are drawn, the draws.
    """

    def __init__(self, logits: Tensor, seqs: list[Sequence], edits: list[RowEdit | None]) -> None:
        self._logits = logits
        self._seqs = seqs
        num_tokens, device = logits.shape[1], logits.device
        drawn = [i for i, seq in enumerate(seqs) if not seq.sampling.greedy]
        self._plan = plan_draws(
            drawn,
            [seqs[i].sampling for i in drawn],
            [uniform(seqs[i].sampling.seed, seqs[i].num_output_tokens) for i in drawn],
            num_tokens,
            device,
        )
        self._edits = _edits_of(edits, num_tokens, device)
        self._asked = _Asked(seqs, range(len(seqs)), num_tokens, device)
        arrays = self._plan.arrays() | self._asked.arrays()
        self._sent = upload(arrays | self._edits.arrays() if self._edits is not None else arrays, device)

    def sample(self) -> list[Sampled]:
        """Launch everything, read it at once, then look further for the rows that need more candidates."""
        largest, self._tokens = _largest(self._logits)
        self._best = largest
        self._changed: Tensor | None = None
        if self._edits is not None:
            self._edit(self._edits)
        draws = self._draw() if self._plan.order else None
        reports = self._report(self._asked, self._sent, draws)
        beyond = [] if draws is None or draws.beyond is None else [draws.beyond]
        edited: list[Tensor] = [] if self._changed is None else [self._best]
        finite, tokens, *values = read_back([largest, self._tokens, *edited, *beyond, *reports.tensors])
        allowed = values.pop(0) if edited else finite
        further = values.pop(0) if beyond else []
        logprobs = reports.read(values)
        if draws is not None and any(further):
            places = [draws.first_nucleus + i for i, more in enumerate(further) if more]
            self._look_further(draws, places, tokens, logprobs)
        return [_outcome(seq, finite[i], allowed[i], tokens[i], logprobs.get(i)) for i, seq in enumerate(self._seqs)]

    def _edit(self, edits: RowEdits | DeviceEdits) -> None:
        self._changed = changed = edits.apply(self._logits, self._sent)
        best, tokens = _largest(changed)
        if len(edits.rows) == len(self._seqs):
            self._best, self._tokens = best, tokens
        else:
            self._best = self._best.float().index_copy(0, self._sent["edited"], best)
            self._tokens = self._tokens.index_copy(0, self._sent["edited"], tokens)

    def _draw(self) -> Draws:
        plan, order = self._plan, self._sent["order"]
        in_order = plan.order == list(range(len(self._seqs)))
        best = self._best
        draws = draw(
            plan,
            self._rows(plan.order, order),
            lambda: best if in_order else best.index_select(0, order),
            self._sent,
        )
        self._tokens = draws.tokens if in_order else self._tokens.index_copy(0, order, draws.tokens)
        return draws

    def _rows(self, rows: list[int], index: Tensor) -> Tensor:
        """The logits `[len(rows), vocab]` of the batch's `rows`, which are `index` too, with the edits made."""
        changed = self._changed
        if changed is None or self._edits is None or len(self._edits.rows) == len(self._seqs):
            source = self._logits if changed is None else changed
            return source if rows == list(range(len(source))) else source.index_select(0, index)
        places = {row: place for place, row in enumerate(self._edits.rows)}
        return torch.stack([changed[places[i]] if i in places else self._logits[i].float() for i in rows])

    def _report(self, asked: _Asked, sent: dict[str, Tensor], draws: Draws | None) -> Reports:
        """The log-probabilities that `asked` asks for, of the tokens as they are now."""
        reports = Reports()
        for name, rows in asked.unwarped.items():
            if not rows:
                continue
            index = sent[name]
            if name == "greedy":
                source = self._rows(rows, index)
            else:
                everything = rows == list(range(len(self._seqs)))
                source = self._logits if everything else self._logits.index_select(0, index)
            own = self._tokens.index_select(0, index)[:, None]
            reports.add(rows, [asked.num_top[i] for i in rows], source.float().log_softmax(-1), own)
        if draws is not None:
            draws.report(reports, asked.warped)
        return reports

    def _look_further(
        self, draws: Draws, places: list[int], tokens: list[Any], logprobs: dict[int, TokenLogprob]
    ) -> None:
        """Draw the rows at `places` among more tokens, then among all; replaces their `tokens` and `logprobs`."""
        for attempt in (1, 2):
            found = draws.again(places, attempt)
            asked = _Asked(self._seqs, found.rows, self._logits.shape[1], self._logits.device)
            sent = upload({"rows": np.array(found.rows)} | asked.arrays(), self._logits.device)
            self._tokens = self._tokens.index_copy(0, sent["rows"], found.tokens)
            reports = self._report(asked, sent, found)
            read = [found.tokens] if found.beyond is None else [found.tokens, found.beyond]
            values = read_back([*read, *reports.tensors])
            for row, token_id in zip(found.rows, values[0], strict=True):
                tokens[row] = token_id
            logprobs |= reports.read(values[len(read) :])
            if found.beyond is None or not any(values[1]):
                return
            draws, places = found, [found.first_nucleus + i for i, more in enumerate(values[1]) if more]


class _Asked:
    """Which of the batch's `rows` want log-probabilities: of no warped distribution, `raw` or `greedy`, or of one.

    Rows that want equally many tokens stand together.
    """

    def __init__(self, seqs: list[Sequence], rows: Collection[int], num_tokens: int, device: torch.device) -> None:
        self.num_top = {i: num for i in rows if (num := seqs[i].sampling.num_logprobs) is not None}
        self.unwarped: dict[str, list[int]] = {"raw": [], "greedy": []}
        self.warped: dict[int, int] = {}
        for i in sorted(self.num_top, key=lambda i: (num_sought(self.num_top[i], num_tokens, device), i)):
            if not seqs[i].sampling.warped_logprobs:
                self.unwarped["raw"].append(i)
            elif seqs[i].sampling.greedy:
                self.unwarped["greedy"].append(i)
            else:
                self.warped[i] = self.num_top[i]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The rows that are not warped, under their names."""
        return {name: np.array(rows) for name, rows in self.unwarped.items() if rows}


def _edits_of(edits: list[RowEdit | None], num_tokens: int, device: torch.device) -> RowEdits | DeviceEdits | None:
    """How the device makes the edits; None if there are none."""
    rows = [i for i, edit in enumerate(edits) if edit is not None]
    if not rows:
        return None
    if device.type != "cpu":
        return DeviceEdits(edits, num_tokens, device)
    return RowEdits(rows, [edit for edit in edits if edit is not None], num_tokens)


def _outcome(seq: Sequence, largest: float, best: float, token_id: float, logprob: TokenLogprob | None) -> Sampled:
    """What became of a row whose maximum is `largest`, and `best` after its edits."""
    if not math.isfinite(largest):
        return _NOT_FINITE
    if not math.isfinite(best):
        return _NONE_OF_THE_ALLOWED if seq.sampling.allowed_token_ids else _NOTHING_ALLOWED
    return Sampled(int(token_id), logprob)


def _largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum of each row of `[N, vocab]`, NaN if the row has one, and its first index."""
    width = math.gcd(logits.shape[1], _PART)
    if logits.device.type != "cpu" or width < _MIN_PART:
        found = logits.max(-1)
        return found.values, found.indices
    # torch vectorises amax but not argmax on CPU, so argmax runs only over the part that holds the maximum.
    parts = logits.unflatten(-1, (-1, width))
    largest, part = parts.amax(-1).max(-1)
    within = parts.gather(1, part[:, None, None].expand(-1, -1, width))[:, 0].max(-1).indices
    return largest, part * width + within
