"""`DynamicCacheRunner`: any model on transformers' own cache, for families that the other runners compute wrongly.

The cost, compared with slots: keys are copied at each step, a batch is padded to its longest row and rebuilt when a row
joins or leaves, and prompts run one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from handler.adapters.adapter import Adapter
from handler.adapters.plain import PlainAdapters
from handler.model.loader import LoadedModel
from handler.runners.dynamic_cache import rows as cache_rows
from handler.runners.dynamic_cache.batches import CacheBatches
from handler.runners.dynamic_cache.forward import CachedForward
from handler.runners.limits import Limits
from handler.runners.runner import StepLogits
from handler.runners.trial import Trial
from handler.scheduling.kv_manager import KVManager
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.slot_manager import SlotManager
from handler.seam.errors import UnsupportedModel

# Rows up to this length decode together; longer rows join only rows at least half as long. Padding costs memory.
_SHORT = 512
# Sets the length of the trial's text, as the page size does for the other runners.
_TRIAL_PAGE_SIZE = 16
# (continues, merges), the best first.
_WAYS = ((True, True), (False, True), (True, False), (False, False))


@dataclass(slots=True, eq=False)
class _StepParts:
    """Results of the parts of a step; `logits` `[rows, vocab]` each, in the order of `samples`."""

    logits: list[Tensor] = field(default_factory=list)
    samples: list[ScheduledSequence] = field(default_factory=list)
    prompt: list[tuple[ScheduledSequence, Tensor]] = field(default_factory=list)


class DynamicCacheRunner:
    """Keeps one cache row for each slot. `prove` finds out what the family allows:

    `continues`: a prompt may run in chunks. If not, only its last chunk runs, and runs the whole prompt.
    `merges`: rows of different lengths may decode in one padded batch. If not, they decode one by one.
    `state_bytes`: memory of a row's states, independent of its length.
    """

    name = "dynamic_cache"
    drafts_obstacle: str | None = "a cache of transformers cannot take back what a rejected draft leaves in it"
    adapters_obstacle: str | None = None
    num_attention_calls = 0
    same_by_any_threads = False

    def __init__(self, loaded: LoadedModel, max_len: int) -> None:
        self.loaded = loaded
        self.max_len = max_len
        self.continues, self.merges = _WAYS[0]
        self.state_bytes = 0
        self._forward = CachedForward(loaded)
        self._batches = CacheBatches()
        self._adapters = PlainAdapters(loaded.model, loaded.dtype)

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        return int(self.loaded.text_config.vocab_size)

    @torch.inference_mode()
    def run(self, batch: ScheduledBatch) -> StepLogits:
        """Decode single tokens in as few batches as the family allows, then run the prompt chunks in turn."""
        parts = _StepParts()
        decodes: list[ScheduledSequence] = []
        chunks: list[ScheduledSequence] = []
        for item in batch.items:
            if item.start == 0:
                self._batches.forget(item.seq.slot)
            goes_on = item.num_tokens == 1 and 0 < item.start == self._batches.length(item.seq.slot)
            (decodes if goes_on else chunks).append(item)
        self._decode(decodes, parts)
        for item in chunks:
            self._prefill(item, parts)
        logits = torch.cat(parts.logits) if parts.logits else torch.empty(0, self.vocab_size)
        return StepLogits(logits, parts.samples, parts.prompt)

    def kv_manager(self, limits: Limits) -> KVManager:
        """Slots without prefix reuse: most of these families keep states that cannot be cut at a page."""
        sizes = (limits.max_num_seqs, limits.max_model_len, limits.capacity_tokens, limits.page_size)
        return SlotManager(*sizes, self.forget)

    def retry(self, item: ScheduledSequence) -> ScheduledSequence:
        """The whole sequence so far: the pass may have left its row at a different length in each layer."""
        self._batches.forget(item.seq.slot)
        return ScheduledSequence(item.seq, 0, item.start + item.num_tokens)

    def discard(self, item: ScheduledSequence, num_accepted: int) -> None:
        """Never called: there are no drafts."""

    def forget(self, slot: int, num_tokens: int) -> None:
        """Drop the row; no other row holds any of its data."""
        self._batches.forget(slot)

    def prepare_adapter(self, adapter: Adapter) -> Adapter:
        """The same: what is loaded is a copy of its tensors."""
        return adapter

    def load_adapter(self, slot: int, adapter: Adapter) -> None:
        """Add it to its rows by hooks."""
        self._adapters.load(slot, adapter)

    def check_adapter(self, adapter: Adapter) -> None:
        """As `Runner.check_adapter`."""
        self._adapters.check(adapter)

    def unload_adapter(self, slot: int) -> None:
        """Forget it; a module that no adapter changes has no hook."""
        self._adapters.unload(slot)

    def prove(self) -> None:
        """Find the best way that passes the trial. Raises UnsupportedModel if none does."""
        trial = Trial(self.loaded, self._trial_limits())
        found: str | None = None
        for continues, merges in _WAYS:
            self.continues, self.merges = continues, merges
            found = trial.difference(self) or self._forgotten_states(trial.text)
            if found is None:
                self.state_bytes = self._measure(trial.text)
                return
        raise UnsupportedModel(f"{self.loaded.model.config.model_type} over {self.name}: {found}")

    def _trial_limits(self) -> Limits:
        """Room for three sequences. Rows grow as needed, so the number of tokens is free."""
        return Limits(self.max_len, 3, self.max_len, 3 * self.max_len, _TRIAL_PAGE_SIZE)

    @property
    def abilities(self) -> str:
        """What `prove` found, in words."""
        prompts = "prompts in chunks" if self.continues else "each prompt in one piece"
        return f"{prompts}, {'decoding in batches' if self.merges else 'decoding one by one'}"

    @torch.inference_mode()
    def _measure(self, text: list[int]) -> int:
        row = self._forward.new_cache()
        self._forward.extend(row, text, 0, 1)
        return cache_rows.state_bytes(row)

    @torch.inference_mode()
    def _forgotten_states(self, text: list[int]) -> str | None:
        """The states that a second chunk does not read, if any. In half precision the logits hardly show it.

        Mamba, FalconMamba and Jamba start a second chunk with an empty recurrent state (transformers 5.23).
        """
        if not self.continues or len(text) < 4:
            return None
        half = len(text) // 2
        for name in cache_rows.STATES:
            rows = [self._forward.new_cache(), self._forward.new_cache()]
            for row in rows:
                self._forward.extend(row, text[:half], 0, 1)
            if cache_rows.clear_states(rows[1], name):
                kept, cleared = (self._forward.extend(row, text[half:], half, len(text) - half) for row in rows)
                if torch.equal(kept, cleared):
                    return f"a prompt that comes in chunks loses its {name}"
        return None

    def _decode(self, items: list[ScheduledSequence], parts: _StepParts) -> None:
        """Decode one token for each item; its row has seen all tokens before."""
        by_slot = {item.seq.slot: item for item in items}
        for batch in self._batches.gather(self._groups(items)):
            members = [by_slot[slot] for slot in batch.slots]
            token_ids = [item.seq.token_ids[item.start] for item in members]
            slots = [item.seq.adapter_slot for item in members]
            logits = self._forward.decode(batch.cache, token_ids, batch.lengths, slots)
            batch.grow()
            for row, item in zip(logits.split(1), members, strict=True):
                _collect(item, row, parts)

    def _groups(self, items: list[ScheduledSequence]) -> list[list[int]]:
        """The slots of each decode batch, longest row first. The order stays valid because all rows grow alike."""
        groups: list[list[int]] = []
        longest = 0
        for item in sorted(items, key=lambda item: (-item.start, item.seq.slot)):
            if not groups or not self.merges or (longest > _SHORT and item.start < longest // 2):
                groups.append([])
                longest = item.start
            groups[-1].append(item.seq.slot)
        return groups

    def _prefill(self, item: ScheduledSequence, parts: _StepParts) -> None:
        """Run one chunk. For a family that cannot continue, run nothing until the last chunk, then the whole prompt."""
        if not self.continues:
            if not item.samples:
                return
            item = ScheduledSequence(item.seq, 0, item.start + item.num_tokens)
            self._batches.forget(item.seq.slot)
        slot, end = item.seq.slot, item.start + item.num_tokens
        cache = self._batches.take(slot) if item.start else self._forward.new_cache()
        keep = item.num_tokens if item.scores_prompt else 1
        token_ids = item.seq.token_ids[item.start : end]
        logits = self._forward.extend(cache, token_ids, item.start, keep, item.seq.adapter_slot)
        self._batches.put(slot, cache, end)
        _collect(item, logits, parts)


def _collect(item: ScheduledSequence, logits: Tensor, parts: _StepParts) -> None:
    """Add the logits `[1 or num_tokens, vocab]` of an item to the prompt rows, the samples, or both."""
    if item.scores_prompt:
        parts.prompt.append((item, logits))
    if item.samples:
        parts.logits.append(logits[-1:])
        parts.samples.append(item)
