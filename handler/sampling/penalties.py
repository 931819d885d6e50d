"""Changes to one row of logits before temperature: watermark, penalties, bias, banned tokens.

Each function changes a float32 row `[vocab]` in place.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from handler.sampling.thinking import forced_token
from handler.scheduling.sequence import Sequence

# TGI's key, so that its detectors find our watermark.
_HASH_KEY = 15485863


def needs_penalties(seq: Sequence) -> bool:
    """True if `apply_penalties` would change the row."""
    params = seq.sampling
    return bool(
        params.repetition_penalty != 1.0
        or params.frequency_penalty
        or params.presence_penalty
        or params.logit_bias
        or params.watermark is not None
        or seq.num_output_tokens < params.min_tokens
        or params.allowed_token_ids
        or _banned_ids(seq)
        or forced_token(seq) is not None
    )


def apply_penalties(row: Tensor, seq: Sequence, eos_token_ids: Collection[int]) -> None:
    """Apply what `seq` requests, in TGI's order: watermark, repetition, frequency, presence; then bias and bans.

    The end of a thought whose budget is used up comes before all of them.
    """
    params = seq.sampling
    if params.watermark is not None:
        _watermark(row, seq.token_ids[-1], *params.watermark)
    if params.repetition_penalty != 1.0:
        _repetition(row, seq.token_ids, params.repetition_penalty)
    if params.length_penalised_frequency:
        _frequency_by_length(row, seq.token_ids, params.frequency_penalty)
    elif params.frequency_penalty or params.presence_penalty:
        output = seq.token_ids[seq.num_prompt_tokens :]
        _frequency_and_presence(row, output, params.frequency_penalty, params.presence_penalty)
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=row.device)
        row[ids] += torch.tensor(list(params.logit_bias.values()), device=row.device, dtype=row.dtype)
    if seq.num_output_tokens < params.min_tokens and (eos_token_ids or params.stop_token_ids):
        row[torch.tensor(sorted({*eos_token_ids, *params.stop_token_ids}), device=row.device)] = float("-inf")
    if params.allowed_token_ids:
        row.masked_fill_(_forbidden(seq, row), float("-inf"))
    banned = _banned_ids(seq)
    if banned:
        row[torch.tensor(banned, device=row.device)] = float("-inf")
    forced = forced_token(seq)
    if forced is not None:
        row.fill_(float("-inf"))
        row[forced] = 0.0


def _forbidden(seq: Sequence, row: Tensor) -> Tensor:
    """Bool `[vocab]`, True for each token that is not allowed."""
    if seq.forbidden is None:
        seq.forbidden = torch.ones(len(row), dtype=torch.bool, device=row.device)
        seq.forbidden[torch.tensor(seq.sampling.allowed_token_ids, device=row.device)] = False
    mask: Tensor = seq.forbidden
    return mask


def _banned_ids(seq: Sequence) -> list[int]:
    """The last token of each bad word whose other tokens end the output."""
    found = []
    for *before, last in seq.sampling.bad_words:
        count = len(before)
        if not count or (count <= seq.num_output_tokens and seq.token_ids[-count:] == before):
            found.append(last)
    return found


def _watermark(row: Tensor, previous_token_id: int, share: float, added: float) -> None:
    """Kirchenbauer 2023 as in TGI: the previous token seeds which share of the vocabulary is green."""
    green = torch.randperm(len(row), generator=torch.Generator().manual_seed(_HASH_KEY * previous_token_id))
    row[green[: int(len(row) * share)].to(row.device)] += added


def _repetition(row: Tensor, token_ids: list[int], penalty: float) -> None:
    """CTRL's rule (Keskar 2019), as transformers and TGI apply it: over prompt and output."""
    ids = torch.tensor(sorted(set(token_ids)), device=row.device)
    scores = row[ids]
    row[ids] = torch.where(scores < 0, scores * penalty, scores / penalty)


def _frequency_and_presence(row: Tensor, output: list[int], frequency: float, presence: float) -> None:
    """OpenAI's formula, over the output alone: logit - count * frequency - (count > 0) * presence."""
    if not output:
        return
    ids, counts = torch.tensor(output, device=row.device).unique(return_counts=True)
    row[ids] -= counts * frequency + presence


def _frequency_by_length(row: Tensor, token_ids: list[int], penalty: float) -> None:
    """TGI's formula, over prompt and output: logit - count / length * penalty."""
    ids, counts = torch.tensor(token_ids, device=row.device).unique(return_counts=True)
    row[ids] -= counts / len(token_ids) * penalty
