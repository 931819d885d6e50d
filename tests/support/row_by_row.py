"""The sampler as it was before it took whole batches: row by row. A frozen oracle; never change what it computes."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from handler.sampling.randomness import uniform
from handler.sampling.sampler import _NONE_OF_THE_ALLOWED, _NOT_FINITE, _NOTHING_ALLOWED, Sampled
from handler.sampling.thinking import forced_token
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import SamplingParams, TokenLogprob

_PART, _MIN_PART = 256, 32
# Candidates tried before the whole vocabulary is sorted. A nucleus rarely holds more.
_NUM_CANDIDATES = 256
_MAX_CANDIDATES = 1024
# Second try, for a row whose nucleus is larger.
_MANY_CANDIDATES = 4096
# Tokens per partial sum where nothing truncates.
_BLOCK = 256


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The tokens left after truncation: `token_ids` `[k]` and their float64 `probs` `[k]`, which sum to 1."""

    token_ids: Tensor
    probs: Tensor

    def draw(self, uniform: float) -> int:
        """The token at `uniform` in (0, 1) of the cumulative distribution."""
        cumulative = self.probs.cumsum(0)
        index = int(torch.searchsorted(cumulative, uniform * float(cumulative[-1])))
        return int(self.token_ids[min(index, len(cumulative) - 1)])


class FullVocabulary:
    """All tokens, where nothing truncates. Draws by blocks, so that no row is sorted or summed as a whole."""

    def __init__(self, weights: Tensor, block_sums: Tensor, vocab_size: int) -> None:
        """`weights` float32 `[blocks, _BLOCK]`, unnormalised probabilities; `block_sums` float64 `[blocks]`."""
        self._weights = weights
        self._block_sums = block_sums
        self._vocab_size = vocab_size

    @property
    def token_ids(self) -> Tensor:
        """All token ids, int64 `[vocab]`."""
        return torch.arange(self._vocab_size, device=self._weights.device)

    @property
    def probs(self) -> Tensor:
        """Probabilities, float64 `[vocab]`, which sum to 1."""
        weights = self._weights.flatten()[: self._vocab_size].double()
        return weights / weights.sum()

    def draw(self, uniform: float) -> int:
        """The token at `uniform` in (0, 1) of the cumulative distribution; never one of weight 0."""
        cumulative = self._block_sums.cumsum(0)
        target = uniform * float(cumulative[-1])
        block = _first_beyond(cumulative, target)
        rest = target - (float(cumulative[block - 1]) if block else 0.0)
        return block * _BLOCK + _first_beyond(self._weights[block].double().cumsum(0), rest)


def _first_beyond(cumulative: Tensor, target: float) -> int:
    """The first index whose cumulative weight exceeds `target`; if none does, the last one of nonzero weight."""
    index = int(torch.searchsorted(cumulative, max(target, 0.0), right=True))
    if index < len(cumulative):
        return index
    return int(torch.searchsorted(cumulative, float(cumulative[-1])))


class _Masses:
    """Unnormalised probabilities of all rows, relative to each row's maximum, and their sums by blocks."""

    def __init__(self, scaled: Tensor) -> None:
        self._vocab_size = scaled.shape[1]
        self._highest = scaled.amax(-1, keepdim=True)
        weights = (scaled - self._highest).exp_()
        padded = F.pad(weights, (0, -self._vocab_size % _BLOCK))
        self._weights = padded.view(len(scaled), -1, _BLOCK)
        self._block_sums = self._weights.sum(-1).double()

    def log_totals(self) -> Tensor:
        """Log-sum-exp of each row, float64 `[n]`."""
        return self._block_sums.sum(-1).log() + self._highest[:, 0].double()

    def full(self, i: int) -> FullVocabulary:
        """Row `i`, untruncated."""
        return FullVocabulary(self._weights[i], self._block_sums[i], self._vocab_size)


def candidates(rows: Tensor, params: list[SamplingParams]) -> list[Candidates | FullVocabulary]:
    """Warp float32 `rows` `[n, vocab]`, none of them greedy; returns the remaining tokens of each."""
    temperatures = torch.tensor([p.temperature for p in params], device=rows.device)
    scaled = rows / temperatures[:, None]
    width = min(rows.shape[1], max(_NUM_CANDIDATES, *(_bounded_top_k(p) for p in params)))
    masses = _Masses(scaled) if any(not _truncates(p) or _nucleus(p) for p in params) else None
    totals = masses.log_totals() if masses is not None and any(_nucleus(p) for p in params) else None
    top = scaled.topk(width) if any(_truncates(p) for p in params) else None
    result: list[Candidates | FullVocabulary] = []
    for i, p in enumerate(params):
        found: Candidates | FullVocabulary | None = None
        if masses is not None and not _truncates(p):
            found = masses.full(i)
        elif top is not None and p.typical_p >= 1.0:
            total = None if totals is None else totals[i]
            found = _from_head(top.values[i].double(), top.indices[i], total, p, width == rows.shape[1])
            if found is None and rows.shape[1] > _MANY_CANDIDATES:
                more = scaled[i].topk(_MANY_CANDIDATES)
                found = _from_head(more.values.double(), more.indices, total, p, False)
        result.append(found or _from_vocabulary(scaled[i].double(), p))
    return result


def _bounded_top_k(params: SamplingParams) -> int:
    return params.top_k if 0 < params.top_k <= _MAX_CANDIDATES else 0


def _truncates(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0 or params.typical_p < 1.0


def _nucleus(params: SamplingParams) -> bool:
    return not params.top_k and _truncates(params)


def _from_head(
    scores: Tensor, ids: Tensor, total: Tensor | None, params: SamplingParams, whole: bool
) -> Candidates | None:
    """Truncate among the highest `scores`, given in descending order; None if lower ones may be needed.

    `total` is the log-sum-exp of the row, the normaliser if top-k is off. `whole` is True if the scores are the entire
    row.
    """
    if params.top_k:
        if params.top_k > len(scores):
            return None
        scores, ids = scores[: params.top_k], ids[: params.top_k]
        probs = scores.softmax(0)
    else:
        probs = (scores - (scores.logsumexp(0) if total is None else total)).exp()
    keep = _keep(probs, params)
    if not params.top_k and not whole and bool(keep[-1]):
        return None
    kept = probs[keep]
    return Candidates(ids[keep], kept / kept.sum())


def _keep(probs: Tensor, params: SamplingParams) -> Tensor:
    """Mask of the descending `probs` that top-p and min-p keep; the first is always kept."""
    keep = torch.ones_like(probs, dtype=torch.bool)
    if params.top_p < 1.0:
        keep &= probs.cumsum(0) - probs < params.top_p
    if params.min_p > 0.0:
        keep &= probs >= params.min_p * probs[0]
    keep[0] = True
    return keep


def _from_vocabulary(scores: Tensor, params: SamplingParams) -> Candidates:
    """Truncate exactly, by sorting the whole row."""
    scores, ids = scores.sort(descending=True, stable=True)
    if params.top_k:
        scores, ids = scores[: params.top_k], ids[: params.top_k]
    probs = scores.softmax(0)
    keep = _keep(probs, params)
    scores, ids = scores[keep], ids[keep]
    if params.typical_p < 1.0:
        scores, ids = _typical(scores, ids, params.typical_p)
    return Candidates(ids, scores.softmax(0))


def _typical(scores: Tensor, ids: Tensor, mass: float) -> tuple[Tensor, Tensor]:
    """Locally typical sampling (Meister 2022): the tokens whose surprise is closest to the entropy, up to `mass`."""
    logprobs = scores.log_softmax(0)
    probs = logprobs.exp()
    entropy = -(probs * logprobs).nansum()
    order = (-logprobs - entropy).abs().sort(stable=True).indices
    ahead = probs[order].cumsum(0) - probs[order]
    kept = order[ahead < mass]
    return scores[kept], ids[kept]


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
    mask = torch.ones(len(row), dtype=torch.bool, device=row.device)
    mask[torch.tensor(seq.sampling.allowed_token_ids, device=row.device)] = False
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


def sample(logits: Tensor, seqs: list[Sequence], eos_token_ids: Collection[int]) -> list[Sampled]:
    """Choose a token for each row of `logits` `[len(seqs), vocab]`, any float dtype."""
    largest, indices = _largest(logits)
    finite, greedy_ids = largest.isfinite().tolist(), indices.tolist()
    rows = _penalised(logits, seqs, finite, eos_token_ids)
    failed = {i: _NOT_FINITE for i, ok in enumerate(finite) if not ok}
    failed |= {i: _nothing_allowed(seqs[i]) for i, row in rows.items() if not row.max().isfinite()}
    drawn = [i for i, seq in enumerate(seqs) if i not in failed and not seq.sampling.greedy]
    choices: dict[int, Candidates | FullVocabulary] = {}
    if drawn:
        given = torch.stack([rows[i] if i in rows else logits[i].float() for i in drawn])
        warped = candidates(given, [seqs[i].sampling for i in drawn])
        choices = dict(zip(drawn, warped, strict=True))
    result: list[Sampled] = []
    for i, seq in enumerate(seqs):
        if i in failed:
            result.append(failed[i])
            continue
        if i in choices:
            token_id = choices[i].draw(uniform(seq.sampling.seed, seq.num_output_tokens))
        else:
            token_id = int(rows[i].argmax()) if i in rows else greedy_ids[i]
        result.append(Sampled(token_id, _logprob(logits[i], rows.get(i), choices.get(i), seq, token_id)))
    return result


def _nothing_allowed(seq: Sequence) -> Sampled:
    return _NONE_OF_THE_ALLOWED if seq.sampling.allowed_token_ids else _NOTHING_ALLOWED


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


def _penalised(
    logits: Tensor, seqs: list[Sequence], finite: list[bool], eos_token_ids: Collection[int]
) -> dict[int, Tensor]:
    """Float32 copies of the rows that penalties and grammars change; `logits` itself stays unchanged."""
    rows: dict[int, Tensor] = {}
    for i, seq in enumerate(seqs):
        if finite[i] and (needs_penalties(seq) or seq.constraint is not None):
            rows[i] = logits[i].to(torch.float32, copy=True)
            apply_penalties(rows[i], seq, eos_token_ids)
            if seq.constraint is not None:
                allowed = seq.constraint.mask().to(logits.device)
                rows[i].masked_fill_(~allowed, float("-inf"))
    return rows


def _logprob(
    logits: Tensor, penalised: Tensor | None, choice: Candidates | FullVocabulary | None, seq: Sequence, token_id: int
) -> TokenLogprob | None:
    """The log-probabilities the request asks for: raw log-softmax, or that of the warped distribution (TGI)."""
    num_top = seq.sampling.num_logprobs
    if num_top is None:
        return None
    if not seq.sampling.warped_logprobs:
        return _report(logits.float().log_softmax(-1), None, token_id, num_top)
    if choice is None:
        return _report((logits.float() if penalised is None else penalised).log_softmax(-1), None, token_id, num_top)
    return _report(choice.probs.log(), choice.token_ids, token_id, num_top)


def _report(logprobs: Tensor, ids: Tensor | None, token_id: int, num_top: int) -> TokenLogprob:
    """The entry for `token_id`; `ids` are the token ids of `logprobs`, None if index equals token id.

    Tokens that cannot come, as under a grammar, are no alternatives: JSON has no minus infinity.
    """
    index = token_id if ids is None else int((ids == token_id).nonzero()[0])
    top: tuple[tuple[int, float], ...] = ()
    if num_top:
        found = logprobs.topk(min(num_top, len(logprobs)))
        names = found.indices if ids is None else ids[found.indices]
        pairs = zip(names.tolist(), found.values.tolist(), strict=True)
        top = tuple((token_id, value) for token_id, value in pairs if math.isfinite(value))
    return TokenLogprob(float(logprobs[index]), top)
