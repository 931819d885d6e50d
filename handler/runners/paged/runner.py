"""`PagedRunner`: prompts and decodes in one forward pass over pages, from static buffers and graphs where they fit."""

from __future__ import annotations

import inspect
import logging
from dataclasses import replace

import torch
from torch import Tensor

from handler.adapters.adapter import Adapter
from handler.adapters.rows import AdapterRows, adapter_rows
from handler.model.loader import LoadedModel
from handler.runners.attention import STEP, UnsupportedAttention, layer_windows
from handler.runners.experts import most_static_tokens
from handler.runners.limits import Limits
from handler.runners.paged.adapters.adapters import PagedAdapters
from handler.runners.paged.adapters.slots import packed_slots, static_slots, used_slots
from handler.runners.paged.adapters.trial_adapter import trial_products
from handler.runners.paged.attention import PagedStep
from handler.runners.paged.cache import PagedCache
from handler.runners.paged.decode_graphs import DecodeGraphs
from handler.runners.paged.fusion import Fusion
from handler.runners.paged.input import PagedInput, build_paged_input, upload
from handler.runners.paged.probe import probe
from handler.runners.paged.step_buffers import Shape, StepBuffers, decode_shapes, mixed_shapes, smallest
from handler.runners.paged.varlen import missing_kernel
from handler.runners.paged.windows import parts_agree
from handler.runners.rotary import changing_ropes
from handler.runners.runner import NO_ROOM_FOR_ADAPTERS, StepLogits
from handler.runners.trial import Trial, Verdict
from handler.scheduling.block_manager import BlockManager
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence

logger = logging.getLogger(__name__)

# Of a graph of some 1,300 kernels; an estimate.
_GRAPH_BYTES = 8 << 20


class PagedRunner:
    """`Runner` over `PagedCache`; the block tables are those of `BlockManager`."""

    name = "paged"
    drafts_obstacle: str | None = None

    def __init__(
        self, loaded: LoadedModel, limits: Limits, fuses: bool = True, adapters: PagedAdapters | None = None
    ) -> None:
        """`fuses`: decoder layers may be fused, and own kernels used, where that is right. `adapters`: their memory."""
        self.loaded = loaded
        self.limits = limits
        self.adapters = adapters
        self.adapters_obstacle = None if adapters is not None else NO_ROOM_FOR_ADAPTERS
        self.adapter_graphs = DecodeGraphs()
        self._no_graphs = DecodeGraphs()
        self._own_kernels = fuses
        num_pages = -(-limits.capacity_tokens // limits.page_size)
        self.cache = PagedCache(num_pages, limits.page_size, loaded.kv_dtype, loaded.device)
        self.graphs = DecodeGraphs()
        self.fusion = Fusion(loaded, limits.max_model_len)
        # A fused layer writes keys as it has computed them.
        self._fuses = fuses and loaded.kv_codes is None
        self.verdict = Verdict.NOT_RUN
        self.num_attention_calls = 0
        self.same_by_any_threads = False
        on_cuda = loaded.device.type == "cuda"
        self._missing_kernel = missing_kernel(loaded.dtype, limits.page_size, loaded.device) if on_cuda else None
        if loaded.kv_codes is not None:
            self._missing_kernel = "torch's paged attention kernel reads no keys of 8 bits"
        self._gathers = self._missing_kernel is not None
        kernel = on_cuda and not self._gathers
        self._packs_windows = kernel and parts_agree(limits.page_size, loaded.dtype, loaded.device)
        capability = torch.cuda.get_device_capability(loaded.device) if on_cuda else (0, 0)
        self._decode_shapes = decode_shapes(limits.max_decode_rows)
        most = most_static_tokens(loaded.model)
        mixed = mixed_shapes(limits.max_num_seqs, limits.max_model_len, capability)
        self._mixed_shapes = [shape for shape in mixed if most is None or shape.num_tokens <= most]
        shapes = [*self._decode_shapes, *self._mixed_shapes]
        self._buffers = StepBuffers(shapes, limits.max_model_len, limits.page_size, loaded.device)
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

    @property
    def graph_bytes(self) -> int:
        """What graphs will take beside the activations of the largest step; known after the first pass.

        All shapes share one tensor of logits, and the driver keeps each graph's kernels.
        """
        if self._gathers or self.loaded.other_devices:
            return 0
        shapes = [*self._decode_shapes, *self._mixed_shapes]
        logits = max(shape.num_seqs for shape in shapes) * self.vocab_size * self.loaded.dtype.itemsize
        return logits + len(shapes) * _GRAPH_BYTES * (1 if self.adapters is None else 2)

    @property
    def graph_tokens(self) -> int:
        """Tokens of the largest step that is captured."""
        return max(shape.num_tokens for shape in (*self._decode_shapes, *self._mixed_shapes))

    def prepare_adapter(self, adapter: Adapter) -> Adapter:
        """The same: what is loaded is a copy of its tensors."""
        return adapter

    def load_adapter(self, slot: int, adapter: Adapter) -> None:
        """As `Runner.load_adapter`."""
        assert self.adapters is not None
        self.adapters.load(slot, adapter)

    def check_adapter(self, adapter: Adapter) -> None:
        """As `Runner.check_adapter`."""
        assert self.adapters is not None
        self.adapters.check(adapter)

    def unload_adapter(self, slot: int) -> None:
        """As `Runner.unload_adapter`; the memory of slots is fixed."""
        assert self.adapters is not None
        self.adapters.unload(slot)

    def kv_manager(self, limits: Limits) -> BlockManager:
        """Accounting of the cache's pages. `limits` are those the runner was made with."""
        return BlockManager(limits.max_model_len, limits.capacity_tokens, limits.page_size)

    def retry(self, item: ScheduledSequence) -> ScheduledSequence:
        """The same item: its keys and values are written again to the same memory."""
        return item

    def discard(self, item: ScheduledSequence, num_accepted: int) -> None:
        """Nothing to do: a sequence never reads keys beyond its own."""

    def forget(self, slot: int, num_tokens: int) -> None:
        """Nothing to do: a sequence never reads keys beyond its own, so old page contents are harmless."""

    @torch.inference_mode()
    def run(self, batch: ScheduledBatch) -> StepLogits:
        """One forward pass, decodes first. The logits are valid until the next one."""
        samples = [item for item in batch.items if item.is_decode]
        chunks = [item for item in batch.items if not item.is_decode]
        # A draft's tokens are decodes of their own, over the same pages: the graphs of decodes serve them.
        decodes = [row for item in samples for row in item.rows()]
        found = self._run(decodes, chunks)
        return replace(found, samples=[*samples, *found.samples[len(decodes) :]])

    def _run(self, decodes: list[ScheduledSequence], chunks: list[ScheduledSequence]) -> StepLogits:
        used = set() if self.adapters is None else used_slots([*decodes, *chunks])
        shape = self._shape(decodes, chunks, self._graphs_for(used))
        if shape is not None:
            try:
                return self._static(shape, decodes, chunks, used)
            except UnsupportedAttention:
                # The first pass may be one of decodes; only it shows that a layer needs its pages gathered.
                if not self._gathers:
                    raise
        return self._packed([*decodes, *chunks], used)

    def _graphs_for(self, used: set[int]) -> DecodeGraphs:
        """Those of steps in which the adapters of these slots are used."""
        if self.adapters is None or not used:
            return self.graphs
        return self.adapter_graphs if self.adapters.are_products(used) else self._no_graphs

    def _shape(
        self, decodes: list[ScheduledSequence], chunks: list[ScheduledSequence], graphs: DecodeGraphs
    ) -> Shape | None:
        """The static step that holds the batch; None if there is none, or all logits of a chunk are wanted."""
        if self._gathers or any(item.scores_prompt for item in chunks):
            return None
        return smallest(graphs.shapes or self._decode_shapes, len(decodes), chunks)

    def _static(
        self, shape: Shape, decodes: list[ScheduledSequence], chunks: list[ScheduledSequence], used: set[int]
    ) -> StepLogits:
        """A replay if graphs are captured, else a pass over the same buffers."""
        self._buffers.fill(shape, decodes, chunks)
        rows, graphs = None, self._graphs_for(used)
        if used:
            slots, output_slots = static_slots(shape, decodes, chunks)
            self._buffers.fill_adapters(shape, slots)
            rows = self._plain_rows(used, slots, output_slots)
        logits = graphs.replay(shape) if graphs else self.static_forward(shape, bool(used), rows)
        ends = zip(chunks, logits[shape.num_decodes :].split(1), strict=False)
        chosen = [(item, row) for item, row in ends if item.samples]
        found = logits[: len(decodes)]
        if chosen:
            found = torch.cat([found, *(row for _, row in chosen)])
        return StepLogits(found, [*decodes, *(item for item, _ in chosen)])

    def _packed(self, items: list[ScheduledSequence], used: set[int]) -> StepLogits:
        slots = rows = None
        if used:
            own, output_slots = packed_slots(items)
            slots = upload(torch.tensor(own, dtype=torch.int32), self.loaded.device)
            rows = self._plain_rows(used, own, output_slots)
        paged_input = build_paged_input(items, self.cache.page_size, self.loaded.device)
        logits = self._forward(paged_input, slots, rows)
        samples = [item for item in items if item.samples]
        prompt: list[tuple[ScheduledSequence, Tensor]] = []
        first = len(samples)
        for item in items:
            if item.scores_prompt:
                prompt.append((item, logits[first : first + item.num_tokens]))
                first += item.num_tokens
        return StepLogits(logits[: len(samples)], samples, prompt)

    def _plain_rows(self, used: set[int], slots: list[int], output_slots: list[int]) -> AdapterRows | None:
        """What `PlainAdapters` need to know, if one of the adapters is theirs too. Waits for the device."""
        if self.adapters is None or self.adapters.are_products(used):
            return None
        return AdapterRows.of(slots, output_slots if self._keeps_logits else None, self.loaded.device)

    def static_forward(self, shape: Shape, adapters: bool = False, rows: AdapterRows | None = None) -> Tensor:
        """The pass that graphs capture: logits `[num_seqs, vocab]` of the static buffers' rows.

        `adapters`: what the buffers say of them counts. `rows` are set if some add more than products.
        """
        slots = self._buffers.adapter_slots(shape) if adapters else None
        return self._forward(self._buffers.view(shape), slots, rows)

    def _forward(self, paged_input: PagedInput, adapter_slots: Tensor | None, rows: AdapterRows | None) -> Tensor:
        kernel = self._missing_kernel is None
        step = PagedStep(self.cache, paged_input, self._windows, kernel, self._packs_windows, adapter_slots)
        token = STEP.set(step)
        try:
            with adapter_rows(rows):
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
        if self.adapters is not None:
            self._prove_adapters(self.adapters, trial.text)

    def _prove_fusion(self, trial: Trial) -> None:
        """Without graphs: undo fused layers if the trial fails with them, or if graphs do."""
        reason = trial.difference(self) or (None if self._gathers else self.decoding)
        if reason:
            logger.warning("trial: decoder layers are not fused, because with them: %s", reason)
            self.fusion.undo()
            self._prove_graphs(trial)

    def _prove_graphs(self, trial: Trial) -> None:
        self.capture(trial.text)
        if self.graphs:
            difference = trial.difference(self)
            if difference:
                self.graphs.drop(f"decoding by them is wrong: {difference}")
        slower = self.loaded.device.type == "cuda" and not self.graphs
        self.verdict = Verdict.FELL_BACK if slower else Verdict.PASSED
        if slower:
            logger.warning("trial: %s", self.decoding)

    @torch.inference_mode()
    def _prove_adapters(self, adapters: PagedAdapters, text: list[int]) -> None:
        """Let adapters add to the layers as they are now, and capture the steps that have some."""
        adapters.attach(self._own_kernels)
        if not self.graphs:
            self.adapter_graphs.drop(self.graphs.reason)
            return
        adapters.memory.load(0, trial_products(adapters.memory))
        self.adapter_graphs.share_memory(self.graphs)
        decodes, mixed = (
            [one for one in shapes if one in self.graphs.shapes] for shapes in (self._decode_shapes, self._mixed_shapes)
        )
        with probe(self, self._buffers, text, adapters=True) as step:
            self.adapter_graphs.capture(step, decodes, mixed, set(), self.loaded.device)
        adapters.memory.clear(0)
        if not self.adapter_graphs:
            self.verdict = Verdict.FELL_BACK
            logger.warning("trial: steps with adapters run without CUDA graphs: %s", self.adapter_graphs.reason)

    @torch.inference_mode()
    def capture(self, text: list[int]) -> None:
        """Capture the step of every shape, if the device and the model allow it; each is proven on tokens of `text`."""
        if self._gathers:
            self.graphs.drop("gathered pages")
            return
        if self.loaded.other_devices:
            self.graphs.drop(f"the model is spread over {len(self.loaded.devices)} GPUs")
            return
        ropes = changing_ropes(self.loaded.model)
        with probe(self, self._buffers, text) as step:
            self.graphs.capture(step, self._decode_shapes, self._mixed_shapes, ropes, self.loaded.device)
