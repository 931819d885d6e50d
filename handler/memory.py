"""How much KV memory there is: bytes free for it, tokens it holds, and the limits that follow from that."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handler.config import EngineConfig
from handler.errors import BadConfiguration
from handler.kv_cache import SlotCache
from handler.model_loader import LoadedModel
from handler.varlen import CUDA_PAGE_SIZE

# Share of what is free after loading. On CPU the rest of the machine needs memory too.
_CPU_FRACTION = 0.3
_CUDA_FRACTION = 0.85
_MAX_CAPACITY_TOKENS = 1 << 24


@dataclass(frozen=True, slots=True)
class Limits:
    """Derived limits of the engine: tokens, but for the two counts. Stored pages serve prefix reuse beside slots."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    capacity_tokens: int
    page_size: int
    num_stored_pages: int = 0


def derive_limits(config: EngineConfig, loaded: LoadedModel, *, paged: bool = False) -> Limits:
    """Fill in what the configuration leaves open, for slots or pages. Raises BadConfiguration for the impossible."""
    on_cpu = loaded.device.type == "cpu"
    capacity = config.kv_capacity_tokens or _capacity_tokens(loaded, config.num_engines)
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
    num_seqs = config.max_num_seqs
    if not on_cpu and not paged:
        # A slot is reserved whole on the device.
        num_seqs = max(1, min(num_seqs, capacity // max_model_len))
    page_size = config.page_size or (CUDA_PAGE_SIZE if paged and not on_cpu else 32)
    return Limits(
        max_model_len=max_model_len,
        max_num_seqs=num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens or (256 if on_cpu else 4096),
        capacity_tokens=capacity,
        page_size=page_size,
        num_stored_pages=capacity // 4 // page_size if on_cpu and not paged else 0,
    )


def bytes_per_token(loaded: LoadedModel) -> int:
    """KV memory of one token, as if every layer attended; a model without heads counts as one of its width."""
    text: Any = loaded.text_config
    num_heads = getattr(text, "num_attention_heads", None) or 1
    num_kv_heads = getattr(text, "num_key_value_heads", None) or num_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // num_heads
    return SlotCache.bytes_per_token(text.num_hidden_layers, num_kv_heads, head_dim, loaded.dtype)


def _capacity_tokens(loaded: LoadedModel, num_engines: int) -> int:
    """On CPU the engines share what is free. Over several GPUs each holds its layers' part of a token."""
    per_token = bytes_per_token(loaded)
    if loaded.device.type == "cpu":
        free = available_memory_bytes() * _CPU_FRACTION / num_engines
    else:
        # Layers are dealt out evenly, so the fullest GPU bounds what all of them can hold.
        least = min(torch.cuda.mem_get_info(device)[0] for device in loaded.devices)
        free = least * len(loaded.devices) * _CUDA_FRACTION
    return min(_MAX_CAPACITY_TOKENS, max(1, int(free) // per_token))


def available_memory_bytes() -> int:
    """Memory this process may still take: the machine's, or what its control group leaves if that is less."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            available = min(available, int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        return available
    return max(0, available)
