"""The start-up self-test: two prompts and a few decode steps on the real device, against the model's own attention."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from handler.model.loader import LoadedModel
from handler.runners.paged.cache import PagedCache
from handler.runners.runner import Runner
from handler.runners.trial import TOLERANCE
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import GenerateRequest, SamplingParams

_DECODE_STEPS = 4


class Verdict(enum.IntEnum):
    """The number `self_test` of the status board."""

    NOT_RUN = 0
    PASSED = 1
    FELL_BACK = 2


@dataclass(frozen=True, slots=True)
class Script:
    """What the test runs: `token_ids` of each sequence, the last `_DECODE_STEPS` one by one, and its pages."""

    token_ids: list[list[int]]
    block_tables: list[list[int]]

    @classmethod
    def fit(cls, cache: PagedCache, max_len: int, vocab_size: int, windows: dict[int, int]) -> Script:
        """A prompt longer than a page and than short windows, a shorter one, as far as memory goes; pages scattered."""
        window = max((w for w in windows.values() if w <= 4 * cache.page_size), default=0)
        long = min(max_len, max(cache.page_size, window) + 5 + _DECODE_STEPS)
        ids = [(7 * i + 3) % vocab_size for i in range(long)]
        wanted = [ids, ids[1 : 1 + max(_DECODE_STEPS + 1, long // 2)]]
        pages = list(range(cache.num_pages, 0, -1))
        script = cls([], [])
        for tokens in wanted:
            needed = -(-len(tokens) // cache.page_size)
            if needed <= len(pages):
                # Every second page first, so that no sequence's pages lie side by side.
                order = pages[::2] + pages[1::2]
                script.token_ids.append(tokens)
                script.block_tables.append(order[:needed])
                pages = [page for page in pages if page not in order[:needed]]
        return script


@torch.inference_mode()
def expected_logits(loaded: LoadedModel, script: Script) -> list[Tensor]:
    """Of each sequence, float32 `[1 + _DECODE_STEPS, vocab]`, from the model's eager attention without any cache."""
    loaded.model.set_attn_implementation("eager")
    found: list[Tensor] = []
    for ids in script.token_ids:
        logits = loaded.model(input_ids=torch.tensor([ids], device=loaded.device), use_cache=False).logits[0]
        found.append(logits[-1 - _DECODE_STEPS :].float())
    return found


def play(runner: Runner, script: Script) -> list[Tensor]:
    """The same from `runner`: both prompts in one pass, then all sequences decode together."""
    seqs: list[Sequence] = []
    for name, (ids, table) in enumerate(zip(script.token_ids, script.block_tables, strict=True)):
        request = GenerateRequest(str(name), ids[:-_DECODE_STEPS], SamplingParams(max_tokens=1, seed=0), 1.0)
        seqs.append(Sequence(request, b"", 0.0, 1.0, block_table=table))
    rows: list[list[Tensor]] = [[] for _ in seqs]
    for step in range(1 + _DECODE_STEPS):
        items = [ScheduledSequence(seq, seq.num_computed, seq.num_uncomputed) for seq in seqs]
        # The sampler does not run here: a row must outlive the next pass.
        for row, logits in zip(rows, runner.run(ScheduledBatch(items)).logits, strict=True):
            row.append(logits.float().clone())
        for seq, ids in zip(seqs, script.token_ids, strict=True):
            seq.num_computed = len(seq.token_ids)
            seq.token_ids += ids[seq.num_computed : seq.num_computed + 1] if step < _DECODE_STEPS else []
    return [torch.stack(row) for row in rows]


def compare(expected: list[Tensor], got: list[Tensor], loaded: LoadedModel) -> str | None:
    """What is wrong with `got`, or None: by how much a row is off, relative to its largest logit.

    Every row counts, but for models that route tokens to experts: in half precision a close call of the router goes
    either way now and then and changes one row by a lot, so there the middle one of a sequence's rows counts. What is
    wrong in kind changes all rows, or all that decode.
    """
    lenient = loaded.dtype is not torch.float32 and _routes(loaded.text_config)
    for name, (one, other) in enumerate(zip(expected, got, strict=True)):
        gaps = (one - other).abs().amax(-1) / one.abs().amax(-1).clamp(min=1.0)
        gap = float(gaps.median() if lenient and gaps.isfinite().all() else gaps.nan_to_num(float("inf")).max())
        if gap > TOLERANCE[loaded.dtype]:
            return f"sequence {name}: logits off by {gap:.2g}, relative"
    return None


def _routes(text_config: Any) -> bool:
    """True if the model is a mixture of experts."""
    names = ("num_experts_per_tok", "num_experts", "num_local_experts", "n_routed_experts", "moe_k")
    return any(getattr(text_config, name, None) for name in names)
