"""The memory that the largest steps take beside keys and values, measured on CUDA before KV memory is sized.

The steps run on the engine's own attention, over a runner whose KV memory holds next to nothing: what keys hold does
not matter for how much memory a step takes. They also load the kernels that the first requests need.
docs/decisions/0097.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from handler.model.loader import LoadedModel
from handler.model.machine_memory import give_back, is_out_of_memory
from handler.runners.limits import Limits, bytes_on_devices, derive_limits
from handler.runners.runner import Runner
from handler.runners.trial import MODEL_ERRORS, attention_of
from handler.sampling.sampler import sample
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.config import EngineConfig
from handler.seam.errors import BadConfiguration
from handler.seam.protocol import GenerateRequest, SamplingParams

logger = logging.getLogger(__name__)

# Share of a GPU's memory for blocks that no longer fit as lengths change, and for what other libraries allocate.
_FRAGMENTATION = 0.02
# Steps are not made shorter than this.
_FEWEST_TOKENS = 256
# An engine with room for fewer keys would refuse nearly every prompt.
_FEWEST_KEYS = 256
_PENALISED = partial(
    SamplingParams, max_tokens=1, seed=0, temperature=0.7, repetition_penalty=1.1, frequency_penalty=0.1, num_logprobs=5
)
# One keeps the whole vocabulary as long as it can, the other its top.
_COSTLY = (_PENALISED(top_p=0.9), _PENALISED(top_k=50, typical_p=0.9))


@dataclass(frozen=True, slots=True)
class Probe:
    """A runner for the measured steps. All rows share slot 0, or page 1: the only one.

    `attention` is what the model is set to meanwhile, empty for its own. `at_end`: prompts end at the longest position
    instead of beginning at 0. `num_rows` sequences decode at once, 0 if only a prompt fits. `later_bytes` says what
    the runner will take once KV memory exists, beside the activations of a captured step of `graph_tokens`.
    """

    runner: Runner
    attention: str = ""
    at_end: bool = False
    num_rows: int = 0
    later_bytes: Callable[[], int] = lambda: 0
    graph_tokens: int = 0


def measured_limits(
    config: EngineConfig, loaded: LoadedModel, make: Callable[[Limits], Probe], *, paged: bool = False
) -> Limits:
    """As `derive_limits`, but on CUDA the measured peak stays free, whatever the model and the GPU.

    Steps that leave too little for keys are halved. A model that `make`'s runner does not run is left unmeasured: the
    trial says why. Raises BadConfiguration.
    """
    if loaded.device.type != "cuda":
        return derive_limits(config, loaded, paged=paged)
    most = derive_limits(config, loaded, paged=paged, reserve={})
    measured: tuple[int, dict[torch.device, int]] | None = None
    for num_tokens in _halvings(most.max_num_batched_tokens):
        try:
            reserve = _reserve(loaded, dataclasses.replace(most, max_num_batched_tokens=num_tokens), make)
        except MODEL_ERRORS as exc:
            if not is_out_of_memory(exc):
                break
            continue
        measured = num_tokens, reserve
        if _leaves_room(config, loaded, reserve):
            break
    if measured is None:
        return derive_limits(config, loaded, paged=paged)
    _log(most.max_num_batched_tokens, *measured)
    limits = derive_limits(config, loaded, paged=paged, reserve=measured[1])
    if limits.capacity_tokens < _FEWEST_KEYS and not config.kv_capacity_tokens:
        kept = ", ".join(f"{num_bytes / 1e9:.2f} GB of {device}" for device, num_bytes in measured[1].items())
        raise BadConfiguration(
            f"the weights leave too little GPU memory: steps of {measured[0]} tokens and graphs take {kept}, and keys "
            f"of {limits.capacity_tokens} tokens fit beside them. Quantise the weights or take a larger GPU"
        )
    return dataclasses.replace(limits, max_num_batched_tokens=measured[0])


def _halvings(num_tokens: int) -> Iterator[int]:
    yield num_tokens
    while (num_tokens := num_tokens // 2) >= _FEWEST_TOKENS:
        yield num_tokens


def _leaves_room(config: EngineConfig, loaded: LoadedModel, reserve: dict[torch.device, int]) -> bool:
    """Whether the tokens asked for fit beside the steps; if none are asked for, half of the memory."""
    give_back()
    tokens = config.kv_capacity_tokens or config.max_model_len
    for device, num_bytes in bytes_on_devices(loaded).items():
        free = torch.cuda.mem_get_info(device)[0]
        keys = max(tokens * num_bytes, 0 if config.kv_capacity_tokens else free / 2)
        if reserve[device] + keys > free:
            return False
    return True


def _log(asked: int, num_tokens: int, reserve: dict[torch.device, int]) -> None:
    if num_tokens < asked:
        logger.warning(
            "steps of at most %d tokens instead of %d (MAX_BATCH_PREFILL_TOKENS): what more tokens compute does not "
            "fit into memory beside the weights and the keys",
            *(num_tokens, asked),
        )
    kept = ", ".join(f"{num_bytes / 1e9:.2f} GB of {device}" for device, num_bytes in reserve.items())
    logger.info("memory: %s stay free of keys, for the largest steps and graphs", kept)


def _reserve(loaded: LoadedModel, limits: Limits, make: Callable[[Limits], Probe]) -> dict[torch.device, int]:
    """Bytes to keep free on each device. Raises what the model raises."""
    own = attention_of(loaded)
    try:
        probe = make(limits)
        if probe.attention:
            loaded.model.set_attn_implementation(probe.attention)
        return _measured(probe, limits)
    finally:
        loaded.model.set_attn_implementation(own)


def _measured(probe: Probe, limits: Limits) -> dict[torch.device, int]:
    steps, devices = _Steps(probe, limits), probe.runner.loaded.devices
    # Makes pages, buffers and workspaces, which stay.
    steps.prompts(1)
    decoding, prompts = taken(devices, steps.decode), taken(devices, steps.prompts)
    largest = [prompts, decoding, taken(devices, steps.sample)]
    graphs = probe.later_bytes()
    # A step takes memory by its tokens. Graphs have a pool of their own.
    share = min(1.0, probe.graph_tokens / limits.max_num_batched_tokens)
    beside = {probe.runner.loaded.device: probe.runner.loaded.beside.step_bytes}
    return {
        device: max(step[device] for step in largest)
        + beside.get(device, 0)
        + (graphs + max(decoding[device], int(share * prompts[device])) if graphs else 0)
        + int(_FRAGMENTATION * torch.cuda.mem_get_info(device)[1])
        for device in devices
    }


def taken(devices: tuple[torch.device, ...], action: Callable[[], object]) -> dict[torch.device, int]:
    """Bytes that torch reserved on each CUDA device at the height of `action`, beyond those in use before it."""
    torch.cuda.empty_cache()
    before = {}
    for device in devices:
        torch.cuda.reset_peak_memory_stats(device)
        before[device] = torch.cuda.memory_reserved(device)
    action()
    return {device: torch.cuda.max_memory_reserved(device) - before[device] for device in devices}


@dataclass(frozen=True, slots=True)
class _Steps:
    """The largest steps that `limits` allow."""

    probe: Probe
    limits: Limits

    def prompts(self, num_tokens: int | None = None) -> Tensor:
        """Prompts of `num_tokens` in all (None: the most there may be), one chunk each; logits `[prompts, vocab]`."""
        left = num_tokens or self.limits.max_num_batched_tokens
        items: list[ScheduledSequence] = []
        while left and len(items) < max(1, self.probe.num_rows):
            size = min(left, self.limits.max_model_len)
            start = self.limits.max_model_len - size if self.probe.at_end else 0
            items.append(ScheduledSequence(self._sequence(start + size), start, size))
            left -= size
        return self.probe.runner.run(ScheduledBatch(items)).logits

    def decode(self) -> Tensor:
        """A last token of as many sequences as may run, or drafts of fewer; logits `[max_decode_rows, vocab]`."""
        longest = min(self.limits.page_size, self.limits.max_model_len)
        starts = [longest - 1 - row % longest for row in range(self.probe.num_rows)]
        if not starts:
            return self.prompts(1).repeat(self.limits.max_decode_rows, 1)
        items = [ScheduledSequence(self._sequence(start + 1), start, 1) for start in starts]
        return self.probe.runner.run(ScheduledBatch(items)).logits

    def sample(self) -> None:
        """A token for each row of `decode`."""
        logits = self.decode()
        for sampling in _COSTLY:
            sample(logits, [self._sequence(1, sampling) for _ in logits], ())

    def _sequence(self, length: int, sampling: SamplingParams = _COSTLY[0]) -> Sequence:
        """`length` different tokens, so that a router of experts finds different ones."""
        vocab = self.probe.runner.vocab_size
        request = GenerateRequest("peak", [(7 * i + 3) % vocab for i in range(length)], sampling, 1.0)
        table = [1] * -(-length // self.limits.page_size)
        return Sequence(request, b"", 0.0, 1.0, slot=0, block_table=table)
