"""KV memory: the type of its numbers (KV_CACHE_DTYPE), and bytes of one token."""

from __future__ import annotations

from typing import Any

import torch

from handler.seam.config import KVCacheDtype
from handler.seam.errors import BadConfiguration
from model_memory.key_bytes import SCALE_BYTES

_CODES = {
    KVCacheDtype.INT8: torch.int8,
    KVCacheDtype.FP8: torch.float8_e4m3fn,
    KVCacheDtype.FP8_E4M3: torch.float8_e4m3fn,
    KVCacheDtype.FP8_E4M3FN: torch.float8_e4m3fn,
    KVCacheDtype.FP8_E5M2: torch.float8_e5m2,
}


def choose_kv_codes(wanted: KVCacheDtype, dtype: torch.dtype, device: torch.device) -> torch.dtype | None:
    """The type of the codes; None if keys and values are kept as `dtype`, the type of the weights.

    Raises BadConfiguration for another type of 16 or 32 bits, and for 8-bit floats on CPU, which has no products of
    them.
    """
    if wanted is KVCacheDtype.AUTO:
        return None
    codes = _CODES.get(wanted)
    own = str(dtype).removeprefix("torch.")
    if codes is None and wanted != own:
        raise BadConfiguration(
            f"KV_CACHE_DTYPE={wanted} differs from {own}, the type of the weights: set DTYPE={wanted} for both, or "
            "KV_CACHE_DTYPE=int8"
        )
    if codes is not None and codes.is_floating_point and device.type == "cpu":
        raise BadConfiguration(
            f"KV_CACHE_DTYPE={wanted} needs CUDA: on CPU set KV_CACHE_DTYPE=int8, which takes as much memory and "
            "rounds less"
        )
    return codes


def kv_bytes_per_token(text_config: Any, dtype: torch.dtype) -> int:
    """Upper bound in bytes, from which the token budget follows: every layer counts as an attention layer.

    A model without heads counts as one head of its width. Layers may differ (Gemma 4). `dtype` is that of KV memory;
    in 8 bits each head has a scale.
    """
    of_scale = SCALE_BYTES if dtype.itemsize == 1 else 0
    heads = (_heads(layer) for layer in text_config.per_layer_config[:])
    return sum(count * (width * dtype.itemsize + of_scale) for count, width in heads)


def _heads(config: Any) -> tuple[int, int]:
    """Heads of keys and values of one layer, and elements of each. If key and value heads differ in size, pages pad
    both to the larger."""
    num_heads = getattr(config, "num_attention_heads", None) or 1
    num_kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    if getattr(config, "qk_nope_head_dim", None):
        # In multi-head latent attention (DeepSeek), `head_dim` is only the rotary part of a key.
        head_dim = config.qk_nope_head_dim + config.qk_rope_head_dim
    widest = max(head_dim, getattr(config, "v_head_dim", None) or 0)
    return 2 * int(num_kv_heads), int(widest)
