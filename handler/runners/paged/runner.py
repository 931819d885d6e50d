"""`PagedRunner`: prompts and decodes in one forward pass over pages, pure decodes from static buffers or graphs."""

from __future__ import annotations

import inspect
import logging

import torch
from torch import Tensor

from handler.model.loader import LoadedModel
from handler.runners.attention import STEP, UnsupportedAttention, layer_windows
from handler.runners.limits import Limits
from handler.runners.paged.attention import PagedStep
from handler.runners.paged.cache import PagedCache
from handler.runners.paged.decode_graphs import DecodeGraphs
from handler.runners.paged.fusion import Fusion
from handler.runners.paged.input import DecodeBuffers, PagedInput, build_paged_input
from handler.runners.paged.varlen import missing_kernel
from handler.runners.rotary import changing_ropes
from handler.runners.runner import StepLogits
from handler.runners.trial import Trial, Verdict
from handler.scheduling.block_manager import BlockManager
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence

logger = logging.getLogger(__name__)


class PagedRunner:
    """`Runner` over `PagedCache`; the block tables are those of `BlockManager`."""

    name = "paged"

    def __init__(self, loaded: LoadedModel, limits: Limits, fuses: bool = True) -> None:
        """`fuses`: decoder layers may be fused, where that is right."""
        self.loaded = loaded
        self.limits = limits
        num_pages = -(-limits.capacity_tokens // limits.page_size)
        self.cache = PagedCache(num_pages, limits.page_size, loaded.dtype, loaded.device)
        self.graphs = DecodeGraphs()
        self.fusion = Fusion(loaded, limits.max_model_len)
        self._fuses = fuses
        self.verdict = Verdict.NOT_RUN
        self.num_attention_calls = 0
        on_cuda = loaded.device.type == "cuda"
        self._missing_kernel = missing_kernel(loaded.dtype, limits.page_size, loaded.device) if on_cuda else None
        self._gathers = self._missing_kernel is not None
        self._buffers = DecodeBuffers(limits.max_num_seqs, limits.max_model_len, limits.page_size, loaded.device)
        self._windows = layer_windows(loaded.text_config)
        self._keeps_logits = "logits_to_keep" in inspect.signature(loaded.model.forward).parameters

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        return int(self.loaded.text_config.vocab_size)

    @property
    def decoding(self) -> str:
        """How decode steps run, in words for the log."""
        if self._gathers:
            reason = self._missing_kernel or "the paged attention kernel does not compute every layer"
            return f"attention over gathered pages, no CUDA graphs ({reason})"
        return "decoding by CUDA graphs" if self.graphs else f"no CUDA graphs ({self.graphs.reason})"

    def kv_manager(self, limits: Limits) -> BlockManager:
        """Accounting of the cache's pages. `limits` are those the runner was made with."""
        return BlockManager(limits.max_model_len, limits.capacity_tokens, limits.page_size)

    def retry(self, item: ScheduledSequence) -> ScheduledSequence:
        """The same item: its keys and values are written again to the same memory."""
        return item

    def forget(self, slot: int, num_tokens: int) -> None:
        """Nothing to do: a sequence never reads keys beyond its own, so old page contents are harmless."""

    @torch.inference_mode()
    def run(self, batch: ScheduledBatch) -> StepLogits:
        """One forward pass. The logits are valid until the next one."""
        if not self._gathers and all(item.num_tokens == 1 and item.samples for item in batch.items):
            try:
                return StepLogits(self._decode(batch.items), batch.items)
            except UnsupportedAttention:
                # The first pass may be one of decodes; only it shows that a layer needs its pages gathered.
                if not self._gathers:
                    raise
        logits = self._forward(build_paged_input(batch, self.cache.page_size, self.loaded.device))
        samples = [item for item in batch.items if item.samples]
        prompt: list[tuple[ScheduledSequence, Tensor]] = []
        first = len(samples)
        for item in batch.items:
            if item.scores_prompt:
                prompt.append((item, logits[first : first + item.num_tokens]))
                first += item.num_tokens
        return StepLogits(logits[: len(samples)], samples, prompt)

    def _decode(self, items: list[ScheduledSequence]) -> Tensor:
        """Logits `[len(items), vocab]`; a replay if graphs are captured, else the same buffers without one."""
        size = self._buffers.fill(items)
        logits = self.graphs.replay(size) if self.graphs else self.static_forward(size)
        return logits[: len(items)]

    def static_forward(self, size: int) -> Tensor:
        """The pass that graphs capture: logits `[size, vocab]` of the static buffers' rows."""
        return self._forward(self._buffers.view(size))

    def _forward(self, paged_input: PagedInput) -> Tensor:
        step = PagedStep(self.cache, paged_input, self._windows, self._missing_kernel is None)
        token = STEP.set(step)
        try:
            return self._call_model(paged_input)
        finally:
            STEP.reset(token)
            self.num_attention_calls = step.calls
            self._gathers = self._gathers or step.gathered

    def _call_model(self, paged_input: PagedInput) -> Tensor:
        index = paged_input.logits_index
        if index is not None and self.loaded.other_devices:
            # The last layer may be on another device; an index on the host works for any.
            index = index.cpu()
        options = {"logits_to_keep": index} if self._keeps_logits and index is not None else {}
        logits: Tensor = self.loaded.model(
            input_ids=paged_input.input_ids,
            position_ids=paged_input.position_ids,
            use_cache=False,
            past_key_values=None,
            **options,
        ).logits[0]
        return logits if options or index is None else logits[index]

    def prove(self) -> None:
        """The trial on this device, then fused layers and graphs, and the same trial over them; sets `verdict`.

        Leaves the model set to the engine's attention. Raises UnsupportedModel if paged attention is wrong for this
        model. Graphs that are wrong are dropped, and fused layers undone if they may be the reason.
        """
        trial = Trial(self.loaded, self.limits)
        trial.prove(self)
        if self._fuses:
            self.fusion.apply(self.run)
        self._prove_graphs(trial)
        if self.fusion.num_fused and not self.graphs:
            self._prove_fusion(trial)

    def _prove_fusion(self, trial: Trial) -> None:
        """Without graphs: undo fused layers if the trial fails with them, or if graphs do."""
        reason = trial.difference(self) or (None if self._gathers else self.decoding)
        if reason:
            logger.warning("trial: decoder layers are not fused, because with them: %s", reason)
            self.fusion.undo()
            self._prove_graphs(trial)

    def _prove_graphs(self, trial: Trial) -> None:
        self.capture()
        if self.graphs:
            difference = trial.difference(self)
            if difference:
                self.graphs.drop(f"decoding by them is wrong: {difference}")
        slower = self.loaded.device.type == "cuda" and not self.graphs
        self.verdict = Verdict.FELL_BACK if slower else Verdict.PASSED
        if slower:
            logger.warning("trial: %s", self.decoding)

    @torch.inference_mode()
    def capture(self) -> None:
        """Capture the decode step for every batch size, if the device and the model allow it."""
        if self._gathers:
            self.graphs.drop("gathered pages")
            return
        if self.loaded.other_devices:
            self.graphs.drop(f"the model is spread over {len(self.loaded.devices)} GPUs")
            return
        self._buffers.fill([], self._buffers.sizes[-1])
        self.graphs.capture(
            self.static_forward,
            self._buffers.sizes,
            changing_ropes(self.loaded.model),
            self.loaded.device,
        )
