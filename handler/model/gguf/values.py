"""Values of a .gguf file that transformers 5.23 does not carry over to the configuration.

It would take its classes' defaults, which are those of one published model, and compute something else without a word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from handler.formats.gguf import gpt_oss

# Of layers without a window, where those with one have keys of another length.
_KEY_LENGTH, _GLOBAL = "attention.key_length", "global_head_dim"
# Keys below the architecture's name, and what transformers calls them.
_SIZES = {
    _KEY_LENGTH: "head_dim",
    f"{_KEY_LENGTH}_swa": "head_dim",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
# What llama.cpp's converter takes the factors of Llama 3.1 and later from (`generate_extra_tensors`).
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
# The tensor of those factors, no weight of a model.
ROPE_FACTORS = "rope_freqs.weight"


def complete(config: Any, architecture: str, readers: Sequence[Any]) -> None:
    """Give the text `config` what the opened `gguf.GGUFReader`s of a file say, and it lacks."""
    fields = readers[0].fields
    for key, name in _sizes(config, architecture).items():
        value = fields[f"{architecture}.{key}"].contents() if f"{architecture}.{key}" in fields else None
        # Some families look for `head_dim` that their configuration does not declare; for others it is computed.
        is_looked_at = name == "head_dim" or hasattr(config, name)
        if isinstance(value, int) and is_looked_at and not isinstance(getattr(type(config), name, None), property):
            setattr(config, name, value)
    parameters: Any = getattr(config, "rope_parameters", None)
    if architecture == gpt_oss.ARCHITECTURE:
        # Its class's defaults are yarn's, as published; the file says how far.
        config.rope_parameters = {**parameters, **_scaling(fields, architecture, config)}
        if (window := fields.get(f"{architecture}.attention.sliding_window")) is not None:
            config.sliding_window = int(window.contents())
        return
    if not isinstance(parameters, dict) or parameters.get("rope_type") != "default":
        return
    found = _scaling(fields, architecture, config)
    for reader in readers:
        for tensor in reader.tensors:
            if str(tensor.name) == ROPE_FACTORS:
                found = _by_factors(np.asarray(tensor.data, np.float64).ravel(), parameters["rope_theta"], config)
    config.rope_parameters = parameters | found


def _sizes(config: Any, architecture: str) -> dict[str, str]:
    """The keys of `_SIZES` that transformers' own table does not give another meaning in this architecture."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    tables: Any = GGUF_CONFIG_MAPPING
    table = tables.get(architecture) or tables.get(str(config.model_type)) or {}
    found = {key: name for key, name in _SIZES.items() if table.get(key, name) == name}
    if table.get(_KEY_LENGTH) != _GLOBAL:
        del found[f"{_KEY_LENGTH}_swa"]
    return found


def _scaling(fields: Any, architecture: str, config: Any) -> dict[str, Any]:
    """`linear` or `yarn`, as the file's metadata say; {} for none."""
    prefix = f"{architecture}.rope.scaling."
    said = {key.removeprefix(prefix): fields[key].contents() for key in fields if key.startswith(prefix)}
    if said.get("type") not in ("linear", "yarn") or "factor" not in said:
        return {}
    found = {"rope_type": said["type"], "factor": float(said["factor"])}
    if said["type"] == "yarn":
        given = said.get("original_context_length", config.max_position_embeddings)
        found["original_max_position_embeddings"] = int(given)
    return found


def _by_factors(factors: Any, theta: float, config: Any) -> dict[str, Any]:
    """The rope type that divides each frequency by its factor: Llama 3's, if its rule gives them, else a list."""
    factor = round(float(factors.max()), 4)
    if np.allclose(_llama3_factors(theta, len(factors), factor), factors, rtol=1e-4):
        return {"rope_type": "llama3", "factor": factor, **_LLAMA3}
    listed = factors.tolist()
    length = config.max_position_embeddings
    # One list for every length, and nothing scaled but frequencies.
    return {
        "rope_type": "longrope",
        "short_factor": listed,
        "long_factor": listed,
        "attention_factor": 1.0,
        "original_max_position_embeddings": length,
    }


def _llama3_factors(theta: float, count: int, factor: float) -> Any:
    """As transformers' `_compute_llama3_parameters` divides the frequencies of `2 * count` dimensions."""
    low, high, length = _LLAMA3.values()
    wavelengths = 2 * math.pi * theta ** (np.arange(count) / count)
    smooth = (length / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(wavelengths < length / high, 1, np.where(wavelengths > length / low, factor, between))
