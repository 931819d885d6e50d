"""`SlotRunner`: one forward pass over slots; on CPU the accelerated model."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from handler.adapters.adapter import Adapter
from handler.adapters.plain import PlainAdapters
from handler.adapters.rows import AdapterRows, adapter_rows
from handler.linears.choice import can_prepack
from handler.model.loader import LoadedModel
from handler.runners.attention import ATTENTION_NAME, STEP, layer_windows
from handler.runners.limits import Limits
from handler.runners.runner import StepLogits
from handler.runners.slots.acceleration import Acceleration
from handler.runners.slots.adapters import SlotAdapters
from handler.runners.slots.attention import SlotStep
from handler.runners.slots.cache import SlotCache
from handler.runners.slots.fused_layers import llama_shaped
from handler.runners.slots.fused_stack import fused_parts
from handler.runners.slots.input import ModelInput, bucket, build_model_input
from handler.runners.trial import MODEL_ERRORS, TOLERANCE, Trial, precision
from handler.scheduling.kv_manager import KVManager
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.scheduling.slot_manager import SlotManager
from handler.scheduling.slot_prefixes import SlotPrefixes
from handler.seam.errors import UnsupportedModel, one_line
from handler.seam.protocol import GenerateRequest, SamplingParams

logger = logging.getLogger(__name__)

# Tokens of the prompt on which a fused layer is compared with the stock one.
_LAYER_TOKENS = 11


class SlotRunner:
    """Runs flattened batches through a transformers model and `SlotCache`."""

    name = "slots"
    drafts_obstacle: str | None = None
    adapters_obstacle: str | None = None

    def __init__(
        self, loaded: LoadedModel, num_slots: int, max_len: int, num_stored_pages: int = 0, page_size: int = 32
    ) -> None:
        self.loaded = loaded
        # Keys are read in whole buckets, also at the end of a slot.
        self.cache = SlotCache(num_slots, bucket(max_len), loaded.kv_dtype, loaded.device, num_stored_pages, page_size)
        self._max_len = max_len
        self._windows = layer_windows(loaded.text_config)
        self._keeps_logits = "logits_to_keep" in inspect.signature(loaded.model.forward).parameters
        self.num_attention_calls = 0
        self.same_by_any_threads = False
        self._trial: Trial | None = None
        self._acceleration: Acceleration | None = None
        self._adapters = SlotAdapters({})
        self._plain_adapters = PlainAdapters(loaded.model, loaded.dtype)

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        return int(self.loaded.text_config.vocab_size)

    @torch.inference_mode()
    def run(self, batch: ScheduledBatch) -> StepLogits:
        """One forward pass; keys and values of all its tokens are in the cache afterwards."""
        model_input = build_model_input(batch, self.cache.max_len, self.loaded.device)
        logits = self._run(model_input)
        num_samples = sum(1 + len(item.draft) for item in model_input.samples)
        prompt: list[tuple[ScheduledSequence, Tensor]] = []
        first = num_samples
        for item in model_input.scored:
            prompt.append((item, logits[first : first + item.num_tokens]))
            first += item.num_tokens
        return StepLogits(logits[:num_samples], model_input.samples, prompt)

    def kv_manager(self, limits: Limits) -> KVManager:
        """Slots, with a store of pages for prefix reuse if the cache has one."""
        prefixes = None
        if self.cache.num_stored_pages:
            prefixes = SlotPrefixes(self.cache.num_stored_pages, self.cache.page_size, self.cache)
        return SlotManager(
            limits.max_num_seqs,
            limits.max_model_len,
            limits.capacity_tokens,
            limits.page_size,
            self.forget,
            prefixes,
        )

    def retry(self, item: ScheduledSequence) -> ScheduledSequence:
        """The same item: its keys and values are written again to the same memory."""
        return item

    def discard(self, item: ScheduledSequence, num_accepted: int) -> None:
        """Zero the keys and values: the next tokens may read them, masked."""
        first = item.start + item.num_tokens - len(item.draft) + num_accepted
        self.cache.erase(item.seq.slot, item.start + item.num_tokens, first)

    def prepare_adapter(self, adapter: Adapter) -> Adapter:
        """With what fused layers add packed for their kernels."""
        return self._adapters.prepared(adapter)

    def load_adapter(self, slot: int, adapter: Adapter) -> None:
        """Give what fused layers have to them, and the rest to hooks of the modules it is for."""
        try:
            self._adapters.load(slot, adapter)
            self._plain_adapters.load(slot, adapter, self._unfused(adapter))
        except BaseException:
            self.unload_adapter(slot)
            raise

    def check_adapter(self, adapter: Adapter) -> None:
        """Fused layers take any product of their modules; what is for others is tried."""
        self._plain_adapters.check(adapter, self._unfused(adapter))

    def _unfused(self, adapter: Adapter) -> list[str]:
        return [path for path in adapter.paths if not self._adapters.holds(path)]

    def unload_adapter(self, slot: int) -> None:
        """Let rows of the slot add nothing, and free what they added."""
        self._adapters.unload(slot)
        self._plain_adapters.unload(slot)

    def forget(self, slot: int, num_tokens: int) -> None:
        """Zero what the sequence wrote: the next one in the slot may read it, masked."""
        self.cache.erase(slot, num_tokens)

    def _run(self, model_input: ModelInput) -> Tensor:
        with self._step(model_input) as step, adapter_rows(self._rows(model_input)):
            logits = self._forward(model_input)
        self.num_attention_calls = step.calls
        return logits

    def _rows(self, model_input: ModelInput) -> AdapterRows | None:
        """The rows' adapters for hooks; fused layers look at `adapter_slots`."""
        if model_input.adapter_slots is None or not self._plain_adapters.in_use:
            return None
        slots: list[int] = model_input.adapter_slots.tolist()
        output = [slots[row] for row in model_input.logits_index.tolist()] if self._keeps_logits else None
        return AdapterRows.of(slots, output, self.loaded.device)

    @contextmanager
    def _step(self, model_input: ModelInput) -> Iterator[SlotStep]:
        step = SlotStep(self.cache, model_input, self._windows)
        token = STEP.set(step)
        try:
            yield step
        finally:
            STEP.reset(token)

    def _forward(self, model_input: ModelInput) -> Tensor:
        options = {"logits_to_keep": model_input.logits_index} if self._keeps_logits else {}
        logits: Tensor = self.loaded.model(
            input_ids=model_input.input_ids,
            position_ids=model_input.position_ids,
            use_cache=False,
            past_key_values=None,
            **options,
        ).logits[0]
        return logits if self._keeps_logits else logits[model_input.logits_index]

    def accelerate(self) -> None:
        """On CPU, make the model faster. Call before `prove`, which undoes what it finds wrong.

        Raises UnsupportedModel if the model does not run at all.
        """
        if not can_prepack(self.loaded.device, self.loaded.dtype):
            return
        self._trial = self._new_trial()
        acceleration = Acceleration(self.loaded.model, self.loaded.kv_codes)
        try:
            self.loaded.model.set_attn_implementation(ATTENTION_NAME)
            if llama_shaped(self.loaded.model) or self._attends():
                acceleration.apply(self._run_layer, self.cache.max_len, TOLERANCE[precision(self.loaded)])
                self._acceleration = acceleration
        except MODEL_ERRORS as exc:
            acceleration.undo()
            logger.warning("the model is not accelerated for this processor: %s", one_line(exc))

    def prove(self) -> None:
        """Run the start-up trial; leaves the model set to the engine's attention. Raises UnsupportedModel."""
        trial, self._trial = self._trial or self._new_trial(), None
        acceleration, self._acceleration = self._acceleration, None
        if acceleration is None:
            trial.prove(self)
            return
        try:
            trial.prove(self)
        except UnsupportedModel as exc:
            acceleration.undo()
            logger.warning("the model is not accelerated for this processor, because then it fails: %s", exc)
            trial.prove(self)
            return
        acceleration.keep()
        self._adapters = SlotAdapters(fused_parts(self.loaded.model))
        # torch's attention divides a long row's keys among threads; ours does not.
        self.same_by_any_threads = acceleration.num_stacked == int(self.loaded.text_config.num_hidden_layers)
        logger.info(
            "weights are prepacked for this processor; %d layers are fused, %d of them run in one call",
            *(acceleration.num_fused, acceleration.num_stacked),
        )

    def _new_trial(self) -> Trial:
        page_size, num_slots = self.cache.page_size, self.cache.num_slots
        limits = Limits(self._max_len, num_slots, self._max_len, num_slots * self._max_len, page_size)
        return Trial(self.loaded, limits)

    def _attends(self) -> bool:
        """True if every layer calls the engine's attention for a prompt of one token. If not, the trial says why."""
        self.run(ScheduledBatch([_first_tokens(1)]))
        return self.num_attention_calls == int(self.loaded.text_config.num_hidden_layers)

    @torch.inference_mode()
    def _run_layer(self, layer: nn.Module) -> Tensor:
        """Run one decoder layer on a short prompt of random vectors in slot 0; `[1, T, width]`."""
        num_tokens = min(_LAYER_TOKENS, self._max_len - 1)
        model_input = build_model_input(
            ScheduledBatch([_first_tokens(num_tokens)]), self.cache.max_len, self.loaded.device
        )
        generator = torch.Generator().manual_seed(0)
        width = self.loaded.text_config.hidden_size
        hidden = torch.randn(1, num_tokens, width, generator=generator).to(self.loaded.dtype)
        rotary = self.loaded.model.model.rotary_emb(hidden, position_ids=model_input.position_ids)
        with self._step(model_input):
            out: Tensor = layer(hidden, position_embeddings=rotary, position_ids=model_input.position_ids)
        return out


def _first_tokens(num_tokens: int) -> ScheduledSequence:
    """A prompt of `num_tokens` zeros in slot 0."""
    request = GenerateRequest("", [0] * num_tokens, SamplingParams(max_tokens=1, seed=0), 1.0)
    return ScheduledSequence(Sequence(request, b"", 0.0, 1.0, slot=0), 0, num_tokens)
