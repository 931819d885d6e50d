"""A model's memory needs from its `config.json`: number of parameters, and bytes of KV cache for each token.

Only JSON is read, never model code. Parameter counts come from the checkpoint's size if it is known; otherwise they are
estimated from the layer sizes. The estimate assumes a gated MLP and should be within a few percent for decoder-only
models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sagemaker_deploy.errors import SpecError

_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1}
_ATTENTION_LAYERS = ("full_attention", "sliding_attention", "attention", "chunked_attention")


@dataclass(frozen=True)
class ModelShape:
    """Sizes of one model. `embedding_params` (input and output) are never quantised.

    `packed_bytes` is the size of a checkpoint that is already quantised, else None. `num_layers` and `max_context`
    are 0 if unknown. `file_bytes` is the size of the files if their form says nothing of the size in memory (GGUF).
    """

    num_params: int
    embedding_params: int
    kv_bytes_per_token: int
    max_context: int
    dtype: str
    packed_bytes: int | None = None
    num_layers: int = 0
    file_bytes: int | None = None

    @property
    def checkpoint_gb(self) -> float:
        """Size of the files to download, in 10^9 bytes."""
        return (self.file_bytes or self.packed_bytes or self.num_params * _DTYPE_BYTES.get(self.dtype, 2)) / 1e9


def shape_from_config(config: Mapping[str, Any], checkpoint_bytes: int | None = None) -> ModelShape:
    """Return the sizes from a parsed `config.json` and, if known, the total size of the safetensors files.

    Raises `SpecError` if a size is missing: the model is then not a text decoder, or of an unknown kind.
    """
    if not isinstance(config, Mapping):
        raise SpecError("config.json is not a JSON object")
    nested = config.get("text_config")
    text: Mapping[str, Any] = {**config, **(nested if isinstance(nested, Mapping) else {})}
    try:
        embedding, rest = _embedding_params(text), _layer_params(text)
        kv_bytes = _kv_bytes_per_token(text)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as exc:
        raise SpecError(f"config.json of type {config.get('model_type')!r} does not define {exc}") from exc
    dtype = str(text.get("dtype") or text.get("torch_dtype") or "bfloat16")
    num_params = embedding + rest
    stored = text.get("quantization_config")
    packed = (checkpoint_bytes or _packed_bytes(embedding, rest, stored)) if stored else None
    if checkpoint_bytes and packed is None:
        num_params = checkpoint_bytes // _DTYPE_BYTES.get(dtype, 2)
    context = int(text.get("max_position_embeddings") or text.get("n_positions") or 0)
    return ModelShape(num_params, embedding, kv_bytes, context, dtype, packed, _layers(text))


def _packed_bytes(embedding: int, rest: int, stored: Any) -> int:
    """An estimate for a stored form whose files were not weighed; scales add a tenth."""
    bits = stored.get("bits") if isinstance(stored, Mapping) else None
    eight = isinstance(stored, Mapping) and ("fp8" in str(stored.get("quant_method")) or stored.get("load_in_8bit"))
    return int(rest * (bits or (8 if eight else 4)) / 8 * 1.1) + 2 * embedding


def _layers(text: Mapping[str, Any]) -> int:
    return int(text.get("num_hidden_layers") or text["n_layer"])


def _hidden(text: Mapping[str, Any]) -> int:
    return int(text.get("hidden_size") or text["n_embd"])


def _heads(text: Mapping[str, Any]) -> int:
    return int(text.get("num_attention_heads") or text["n_head"])


def _kv_heads(text: Mapping[str, Any]) -> int:
    if text.get("multi_query"):
        return 1
    return int(text.get("num_key_value_heads") or _heads(text))


def _head_dim(text: Mapping[str, Any]) -> int:
    return int(text.get("head_dim") or _hidden(text) // _heads(text))


def _embedding_params(text: Mapping[str, Any]) -> int:
    tied = text.get("tie_word_embeddings", True)
    return int(text["vocab_size"]) * _hidden(text) * (1 if tied else 2)


def _layer_params(text: Mapping[str, Any]) -> int:
    hidden, head_dim = _hidden(text), _head_dim(text)
    attention = hidden * head_dim * (2 * _heads(text) + 2 * _kv_heads(text))
    return _layers(text) * (attention + _mlp_params(text) + 2 * hidden)


def _mlp_params(text: Mapping[str, Any]) -> int:
    """All experts count: every expert must be in memory, although a token uses only a few."""
    hidden = _hidden(text)
    inner = int(text.get("intermediate_size") or text.get("n_inner") or 4 * hidden)
    experts = int(text.get("num_local_experts") or text.get("num_experts") or text.get("n_routed_experts") or 1)
    if experts > 1:
        inner = int(text.get("moe_intermediate_size") or inner)
    matrices = 2 if "n_embd" in text else 3
    return matrices * hidden * inner * experts


def _kv_bytes_per_token(text: Mapping[str, Any]) -> int:
    """Keys and values in 16 bits for each attention layer; the state of recurrent layers does not grow.

    A sliding window counts as full attention, which can only overestimate. Latent attention (MLA) counts as expanded
    keys and values, as transformers stores it.
    """
    kinds = text.get("layer_types")
    layers = sum(kind in _ATTENTION_LAYERS for kind in kinds) if kinds else _layers(text)
    if "qk_nope_head_dim" in text:
        key = int(text["qk_nope_head_dim"]) + int(text["qk_rope_head_dim"])
        return 2 * layers * _heads(text) * (key + int(text["v_head_dim"]))
    return 2 * 2 * layers * _kv_heads(text) * _head_dim(text)
