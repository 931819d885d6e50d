"""One forward pass for a `ModelInput`, and the probe that shows at start that the model is computed correctly."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from handler.linears.choice import can_lay_out, lay_out_linears, restore_linears
from handler.linears.packed_linear import PackedLinear
from handler.model.loader import LoadedModel
from handler.runners.attention import ATTENTION_NAME, STEP, UnsupportedAttention, layer_windows
from handler.runners.limits import Limits
from handler.runners.runner import StepLogits
from handler.runners.slots.attention import SlotStep
from handler.runners.slots.cache import SlotCache
from handler.runners.slots.fused_ends import fuse_ends
from handler.runners.slots.fused_layers import fuse_layers, relative_gap
from handler.runners.slots.fused_stack import all_fused, stack_layers
from handler.runners.slots.input import ModelInput, bucket, build_model_input
from handler.runners.trial import TOLERANCE
from handler.scheduling.kv_manager import KVManager
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.scheduling.slot_manager import SlotManager
from handler.scheduling.slot_prefixes import SlotPrefixes
from handler.seam.errors import UnsupportedModel
from handler.seam.protocol import GenerateRequest, SamplingParams

logger = logging.getLogger(__name__)


class ModelRunner:
    """Runs packed batches through an unmodified transformers model and `SlotCache`."""

    name = "packed"

    def __init__(
        self, loaded: LoadedModel, num_slots: int, max_len: int, num_stored_pages: int = 0, page_size: int = 32
    ) -> None:
        self.loaded = loaded
        # Keys are looked at in whole buckets, the last one of a slot too.
        self.cache = SlotCache(num_slots, bucket(max_len), loaded.dtype, loaded.device, num_stored_pages, page_size)
        self._max_len = max_len
        self._windows = layer_windows(loaded.text_config)
        self._keeps_logits = "logits_to_keep" in inspect.signature(loaded.model.forward).parameters
        self.num_attention_calls = 0

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        return int(self.loaded.text_config.vocab_size)

    @torch.inference_mode()
    def run(self, batch: ScheduledBatch) -> StepLogits:
        """One packed forward pass; keys and values of all its tokens are in the cache afterwards."""
        model_input = build_model_input(batch, self.cache.max_len, self.loaded.device)
        logits = self._run(model_input)
        num_samples = len(model_input.samples)
        prompt: list[tuple[ScheduledSequence, Tensor]] = []
        first = num_samples
        for item in model_input.scored:
            prompt.append((item, logits[first : first + item.num_tokens]))
            first += item.num_tokens
        return StepLogits(logits[:num_samples], model_input.samples, prompt)

    def kv_manager(self, limits: Limits) -> KVManager:
        """Slots, with a store of pages for prefix reuse if the limits leave room for one."""
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
        """The same: its keys and values are written again to the same places."""
        return item

    def forget(self, slot: int, num_tokens: int) -> None:
        """Zero what the sequence wrote: the next one may read its slot beyond its own tokens, masked."""
        self.cache.erase(slot, num_tokens)

    def _run(self, model_input: ModelInput) -> Tensor:
        step = SlotStep(self.cache, model_input, self._windows)
        token = STEP.set(step)
        try:
            return self._forward(model_input)
        finally:
            STEP.reset(token)
            self.num_attention_calls = step.calls

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

    def probe(self) -> None:
        """Compare a ragged prefill and a decode step with the model's own eager attention.

        Leaves the model set to the engine's attention. Raises UnsupportedModel if a layer does not call it or the
        logits differ: families outside this runner go wrong silently, never with an exception.
        """
        prompts = self._probe_prompts()
        self.loaded.model.set_attn_implementation("eager")
        expected = [self._reference(ids) for ids in prompts]
        try:
            self.loaded.model.set_attn_implementation(ATTENTION_NAME)
            got = self._probe_steps(prompts)
        except (UnsupportedAttention, AttributeError, TypeError, ValueError, RuntimeError) as exc:
            raise UnsupportedModel(f"{self._name} cannot run with the engine's attention: {exc}") from exc
        calls, layers = self.num_attention_calls, int(self.loaded.text_config.num_hidden_layers)
        if calls != layers:
            raise UnsupportedModel(f"{self._name} calls the engine's attention in {calls} of {layers} layers")
        gap = _largest_gap(expected, got)
        if not gap <= TOLERANCE[self.loaded.dtype]:
            raise UnsupportedModel(f"{self._name}: logits differ from eager attention by {gap:.2g}, relative")

    @torch.inference_mode()
    def speed_up(self) -> None:
        """On CPU: fuse the layers of known shape and lay the weights out for the processor. Call after `probe`.

        Each fused layer is compared with the one it replaces, and the logits before and after: if they differ, linears
        outside fused layers are put back.
        """
        model, dtype = self.loaded.model, self.loaded.dtype
        if not can_lay_out(self.loaded.device, dtype):
            return
        prompts = self._probe_prompts()
        expected = self._probe_steps(prompts)
        trial = self._layer_trial()
        num_fused = fuse_layers(model, trial, TOLERANCE[dtype])
        num_stacked = stack_layers(model, trial)
        if all_fused(model):
            fuse_ends(model, self.cache.max_len, TOLERANCE[dtype])
        places = lay_out_linears(model)
        for module in model.modules():
            if isinstance(module, PackedLinear):
                module.lay_out()
        gap = _largest_gap(expected, self._probe_steps(prompts))
        if gap <= TOLERANCE[dtype]:
            told = "weights are laid out for this processor; %d layers are fused, %d of them run in one go"
            logger.info(told, num_fused, num_stacked)
        else:
            restore_linears(places)
            logger.warning("weights stay as they are: laid out for this processor they change logits by %.2g", gap)

    def _layer_trial(self) -> Callable[[nn.Module], Tensor]:
        """A function that runs one decoder layer on a short prompt of random vectors."""
        ids = self._probe_prompts()[0]
        request = GenerateRequest("", ids, SamplingParams(max_tokens=1, seed=0), 1.0)
        item = ScheduledSequence(Sequence(request, b"", 0.0, 1.0, slot=0), 0, len(ids))
        model_input = build_model_input(ScheduledBatch([item]), self.cache.max_len, self.loaded.device)
        generator = torch.Generator().manual_seed(0)
        width = self.loaded.text_config.hidden_size
        hidden = torch.randn(1, len(ids), width, generator=generator).to(self.loaded.dtype)

        def run(layer: nn.Module) -> Tensor:
            rotary = self.loaded.model.model.rotary_emb(hidden, position_ids=model_input.position_ids)
            token = STEP.set(SlotStep(self.cache, model_input, self._windows))
            try:
                out: Tensor = layer(hidden, position_embeddings=rotary, position_ids=model_input.position_ids)
            finally:
                STEP.reset(token)
            return out

        return run

    @property
    def _name(self) -> str:
        return str(self.loaded.model.config.model_type)

    def _probe_prompts(self) -> list[list[int]]:
        """Two prompts (one if there is one slot) of different lengths, longer than a short sliding window."""
        window = min((w for w in self._windows.values() if w), default=0)
        long = min(self._max_len - 1, window + 5 if 0 < window <= 64 else 11)
        ids = [(7 * i + 3) % self.vocab_size for i in range(long)]
        return [ids, ids[1 : 1 + max(2, long // 2)]][: self.cache.num_slots]

    @torch.inference_mode()
    def _reference(self, ids: list[int]) -> Tensor:
        tokens = torch.tensor([ids], device=self.loaded.device)
        logits: Tensor = self.loaded.model(input_ids=tokens, use_cache=False).logits[0, -1]
        return logits.float()

    def _probe_steps(self, prompts: list[list[int]]) -> list[Tensor]:
        """Prefill all but the last token of each prompt together, then decode the last ones together."""
        seqs = []
        for slot, ids in enumerate(prompts):
            request = GenerateRequest(str(slot), ids, SamplingParams(max_tokens=1, seed=0), 1.0)
            seqs.append(Sequence(request, b"", 0.0, 1.0, slot=slot))
        for first, last in ((0, -1), (-1, None)):
            items = []
            for seq in seqs:
                part = range(len(seq.token_ids))[first:last]
                items.append(ScheduledSequence(seq, part.start, len(part)))
            found = self.run(ScheduledBatch(items))
        order = [item.seq for item in found.samples]
        return [found.logits[order.index(seq)].float() for seq in seqs]


def _largest_gap(expected: list[Tensor], got: list[Tensor]) -> float:
    """The largest difference relative to the largest logit of its row; NaN if there is one."""
    gaps = [relative_gap(one, other) for one, other in zip(expected, got, strict=True)]
    return float(torch.stack(gaps).max())
