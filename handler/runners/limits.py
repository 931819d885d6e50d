"""How much KV memory there is: bytes free for it, tokens it holds, and the limits that follow from that."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from handler.model.kv_size import kv_bytes_per_token
from handler.model.loader import LoadedModel
from handler.model.machine_memory import available_memory_bytes, give_back
from handler.seam.config import EngineConfig
from handler.seam.errors import BadConfiguration

# Share of what is free after loading. On CPU the rest of the machine needs memory too; on CUDA the activations of a
# model that is not measured (handler/runners/peak.py).
_CPU_FRACTION = 0.3
# Granularity of prefix reuse: a chat template with a short system message takes 16 to 32 tokens.
_CPU_PAGE_SIZE = 16
# FlashAttention-2 loads pages in blocks of this many keys.
CUDA_PAGE_SIZE = 256
_CUDA_FRACTION = 0.85
_CPU_SEQS = 64
# On CUDA as many sequences run as KV memory holds of this many tokens, within these bounds. Most chats with their
# answers are shorter; where they are not, the newest sequences give way (decision 0098).
_USUAL_TOKENS = 512
_FEWEST_SEQS, _MOST_SEQS = 8, 256
_MAX_CAPACITY_TOKENS = 1 << 24
# The first number in a parameter's name is its layer's, in all families of transformers.
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the engine, in tokens except for the two counts. Stored pages serve prefix reuse beside slots.

    `num_draft_tokens` is the longest draft of a sequence.
    """

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    capacity_tokens: int
    page_size: int
    num_stored_pages: int = 0
    num_draft_tokens: int = 0

    @property
    def max_decode_rows(self) -> int:
        """Rows of the largest step of decodes and drafts."""
        return max(self.max_num_seqs, 1 + self.num_draft_tokens)


def derive_limits(
    config: EngineConfig,
    loaded: LoadedModel,
    *,
    paged: bool = False,
    reserve: Mapping[torch.device, int] | None = None,
) -> Limits:
    """Limits for slots or pages; fills in what the configuration leaves open. Raises BadConfiguration.

    `reserve` is what steps need of each GPU's free memory, in bytes; None leaves a share of it to them.
    """
    on_cpu = loaded.device.type == "cpu"
    capacity = config.kv_capacity_tokens or _capacity_tokens(loaded, config.num_engines, reserve)
    longest = min(loaded.max_position_embeddings, capacity)
    max_model_len = config.max_model_len or longest
    if max_model_len > loaded.max_position_embeddings:
        raise BadConfiguration(
            f"MAX_TOTAL_TOKENS must be at most {loaded.max_position_embeddings}, the model's context. "
            f"Given: {max_model_len}"
        )
    if max_model_len > capacity:
        raise BadConfiguration(
            f"MAX_TOTAL_TOKENS must be at most {capacity}, what KV memory holds. Given: {max_model_len}"
        )
    num_seqs = config.max_num_seqs or (_CPU_SEQS if on_cpu else _seqs_by_memory(capacity, max_model_len))
    if not on_cpu and not paged:
        # A slot is reserved whole on the device.
        num_seqs = max(1, min(num_seqs, capacity // max_model_len))
    page_size = config.page_size or (CUDA_PAGE_SIZE if paged and not on_cpu else _CPU_PAGE_SIZE)
    return Limits(
        max_model_len=max_model_len,
        max_num_seqs=num_seqs,
        num_draft_tokens=config.num_draft_tokens,
        max_num_batched_tokens=config.max_num_batched_tokens or (256 if on_cpu else 4096),
        capacity_tokens=capacity,
        page_size=page_size,
        num_stored_pages=capacity // 4 // page_size if on_cpu and not paged else 0,
    )


def _seqs_by_memory(capacity: int, max_model_len: int) -> int:
    """In steps of 8, as decode graphs are captured."""
    held = capacity // min(_USUAL_TOKENS, max_model_len)
    return max(_FEWEST_SEQS, min(_MOST_SEQS, held // 8 * 8))


def bytes_per_token(loaded: LoadedModel) -> int:
    """KV memory of one token in bytes, as if every layer attended. A model without heads counts as one of its width."""
    return kv_bytes_per_token(loaded.text_config, loaded.kv_dtype)


def bytes_on_devices(loaded: LoadedModel) -> dict[torch.device, float]:
    """KV memory of one token in bytes on each device, with what a draft model takes of the first."""
    found = {device: share * bytes_per_token(loaded) for device, share in layer_shares(loaded).items()}
    found[loaded.device] = found.get(loaded.device, 0.0) + loaded.beside.key_bytes
    return found


def _capacity_tokens(loaded: LoadedModel, num_engines: int, reserve: Mapping[torch.device, int] | None) -> int:
    """On CPU the engines share free memory. Over several GPUs, each holds the part of a token that its layers need, and
    the GPU with the least room for that is the bound."""
    per_token = bytes_on_devices(loaded)
    if loaded.device.type == "cpu":
        free = available_memory_bytes() * _CPU_FRACTION / num_engines
        found = free / per_token[loaded.device]
    else:
        give_back()
        found = min(_room(device, reserve) / num_bytes for device, num_bytes in per_token.items() if num_bytes)
    return min(_MAX_CAPACITY_TOKENS, max(1, int(found)))


def _room(device: torch.device, reserve: Mapping[torch.device, int] | None) -> float:
    free = torch.cuda.mem_get_info(device)[0]
    return free * _CUDA_FRACTION if reserve is None else free - reserve.get(device, 0)


def layer_shares(loaded: LoadedModel) -> dict[torch.device, float]:
    """The share of the model's layers on each device that holds one. accelerate does not deal them out evenly.

    1 on each if the parameters' names tell no layers.
    """
    if not loaded.other_devices:
        return {loaded.device: 1.0}
    devices = {
        int(found[1]): parameter.device
        for name, parameter in loaded.model.named_parameters()
        if (found := _LAYER.search(name)) is not None
    }
    if not devices:
        return dict.fromkeys(loaded.devices, 1.0)
    counts = Counter(devices.values())
    return {device: count / len(devices) for device, count in counts.items()}
