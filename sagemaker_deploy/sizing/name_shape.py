"""A model's sizes assumed from its name ("Qwen3-8B"), for when its files cannot be read.

The name gives parameters in billions and sometimes the stored form. The cache of a token is assumed from the size: the
largest of well-known models with grouped-query attention. All is rounded up, so that a recommendation errs on the large
side.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from model_memory.weight_counts import WeightCounts
from sagemaker_deploy.sizing.model_shape import ModelShape

# "8B", "0.6B", "135M", "1_6b", "8x7B"; never "A3B" (active parameters), "E4B" (effective ones) or "v0.3".
_SIZE = re.compile(r"(?<![A-Za-z0-9.])(?<!\d_)(?:(\d+)x)?(\d+(?:[._]\d+)?)([bm])(?![a-z0-9])", re.IGNORECASE)
# "17B-16E": the number before counts active parameters.
_ACTIVE_ONLY = re.compile(r"\d+B-\d+E(?![a-z0-9])", re.IGNORECASE)
_FOUR, _EIGHT = (0.65, "4 bits"), (1.05, "8 bits")


def _compressed(**weights: int) -> dict[str, object]:
    """The `quantization_config` of compressed-tensors for integers of one kind."""
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}


# The first that matches: (pattern, (bytes for each weight, words), quantization_config).
_STORED: tuple[tuple[str, tuple[float, str], dict[str, object]], ...] = (
    ("nf4|bnb-4bit", _FOUR, {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ("bnb-8bit", _EIGHT, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    ("gptq-int8", _EIGHT, {"quant_method": "gptq", "bits": 8}),
    ("gptq", _FOUR, {"quant_method": "gptq"}),
    ("awq", _FOUR, {"quant_method": "awq"}),
    ("w8a8|w8a16", _EIGHT, _compressed(num_bits=8)),
    ("w4a16", _FOUR, _compressed(num_bits=4, group_size=128)),
    ("mxfp4", _FOUR, {"quant_method": "mxfp4"}),
    ("nvfp4", _FOUR, {"quant_method": "modelopt", "quant_algo": "NVFP4"}),
    ("fp8", _EIGHT, {"quant_method": "fp8"}),
    ("int8|8-?bit", _EIGHT, {"quant_method": "8 bits"}),
    ("int4|4-?bit", _FOUR, {"quant_method": "4 bits"}),
)
# (billions of parameters up to, KiB of cache for each token): Qwen3-1.7B, Qwen3-14B, Qwen3-32B, Llama-3.3-70B,
# Llama-3.1-405B.
_CACHE_KIB = ((2.5, 112), (15.5, 160), (40.0, 256), (90.0, 320), (float("inf"), 504))
_EMBEDDING_SHARE = 0.1


@dataclass(frozen=True)
class NameShape:
    """Sizes assumed from a name; `text` says in words what was taken from it and what was assumed."""

    shape: ModelShape
    text: str


def shape_from_name(name: str) -> NameShape | None:
    """Return the sizes that a model's name tells, or None if it tells none."""
    billions = _billions(name)
    if billions is None:
        return None
    params = int(billions * 1e9)
    cache_kib = next(kib for limit, kib in _CACHE_KIB if billions <= limit)
    (size, words), form = next(
        ((size, form) for pattern, size, form in _STORED if re.search(pattern, name, re.IGNORECASE)), ((0, ""), None)
    )
    embeddings = int(params * _EMBEDDING_SHARE)
    counts = WeightCounts(params - embeddings, 0, embeddings)
    shape = ModelShape(counts, cache_kib * 1024, 0, "bfloat16", form, int(params * size) if form else None)
    text = f"stored in {words}" if form else "16 bits each"
    return NameShape(shape, f"{billions:g} billion parameters by the name, {text}, {cache_kib} KiB of cache a token")


def _billions(name: str) -> float | None:
    """The largest number of billions in the name; millions only if it has none, for "1M" may be a context."""
    if _ACTIVE_ONLY.search(name):
        return None
    found: dict[str, list[float]] = {"b": [], "m": []}
    for experts, number, unit in _SIZE.findall(name):
        found[unit.lower()].append(int(experts or 1) * float(number.replace("_", ".")))
    if found["b"]:
        return max(found["b"])
    # A model of fewer than ten million parameters is not served; "1M" is a context.
    millions = max(found["m"], default=0.0)
    return millions / 1000 if millions >= 10 else None
