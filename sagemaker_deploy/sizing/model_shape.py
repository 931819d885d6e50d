"""A model's memory needs from its `config.json`: weights, and bytes of KV cache for each token.

Only JSON is read, never model code. Counts are the container's own (`model_memory`), scaled to the checkpoint's size if
that is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from model_memory.adapter_bytes import adapter_bytes
from model_memory.gguf_bytes import Stored
from model_memory.key_bytes import key_bytes_per_token, max_positions
from model_memory.stored_codes import method_of, quantization_of, stored_codes
from model_memory.weight_counts import WeightCounts, count_weights, num_layers, text_values
from sagemaker_deploy.errors import SpecError

_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1}


# Values of KV_CACHE_DTYPE that halve the memory of keys and values.
EIGHT_BITS = ("int8", "fp8", "fp8_e4m3", "fp8_e4m3fn", "fp8_e5m2")


@dataclass(frozen=True)
class ModelShape:
    """Sizes of one model; `dtype` is that of its files.

    `stored` is the `quantization_config` of a checkpoint that is already quantised, else None, and `stored_bytes` the
    size of its files. `num_layers` and `max_context` are 0 if unknown. Of .gguf files, `tensors` are those by name,
    and `file_bytes` is their size. `kv_bytes_in_8_bits` is `kv_bytes_per_token` with an 8-bit KV_CACHE_DTYPE, 0 if
    unknown. `draft_bytes` are those of a draft model in memory beside it, `adapter_bytes` those set aside for adapters,
    and `rank_bytes` those of one adapter of rank 1.
    """

    counts: WeightCounts
    kv_bytes_per_token: int
    max_context: int
    dtype: str
    stored: Mapping[str, Any] | None = None
    stored_bytes: int | None = None
    num_layers: int = 0
    file_bytes: int | None = None
    tensors: Mapping[str, Stored] | None = None
    kv_bytes_in_8_bits: int = 0
    draft_bytes: int = 0
    rank_bytes: int = 0
    adapter_bytes: int = 0

    @property
    def is_packed(self) -> bool:
        """True if the files are quantised, of whatever form."""
        return self.stored is not None or self.tensors is not None

    def with_keys(self, kv_cache_dtype: str) -> ModelShape:
        """Return the shape with keys and values as KV_CACHE_DTYPE says."""
        if kv_cache_dtype not in EIGHT_BITS or not self.kv_bytes_in_8_bits:
            return self
        return replace(self, kv_bytes_per_token=self.kv_bytes_in_8_bits)

    def with_draft(self, draft: ModelShape) -> ModelShape:
        """Return the shape with a draft model beside it: as many tokens of keys and values are kept for both."""
        dense = 2 * draft.num_params
        return replace(
            self,
            kv_bytes_per_token=self.kv_bytes_per_token + draft.kv_bytes_per_token,
            draft_bytes=draft.stored_bytes or (draft.file_bytes if draft.is_packed else dense) or dense,
        )

    def with_adapters(self, num_adapters: int, max_rank: int) -> ModelShape:
        """Return the shape with memory set aside for adapters."""
        return replace(self, adapter_bytes=num_adapters * max_rank * self.rank_bytes)

    @property
    def num_params(self) -> int:
        return self.counts.total

    @property
    def checkpoint_gb(self) -> float:
        """Size of the files to download, in 10^9 bytes."""
        return (self.file_bytes or self.stored_bytes or self.num_params * _DTYPE_BYTES.get(self.dtype, 2)) / 1e9


def shape_from_config(config: Mapping[str, Any], checkpoint_bytes: int | None = None) -> ModelShape:
    """Return the sizes from a parsed `config.json` and, if known, the total size of the safetensors files.

    Raises `SpecError` if a size is missing: the model is then not a text decoder, or of an unknown kind.
    """
    if not isinstance(config, Mapping):
        raise SpecError("config.json is not a JSON object")
    text = text_values(config)
    try:
        counts, layers = count_weights(text), num_layers(text)
        kv_bytes, in_8_bits = key_bytes_per_token(text), key_bytes_per_token(text, 1)
        of_rank = adapter_bytes(text, 1, 1)
    except (KeyError, TypeError, ValueError, ArithmeticError) as exc:
        raise SpecError(f"config.json of type {config.get('model_type')!r} does not define {exc}") from exc
    dtype = str(text.get("dtype") or text.get("torch_dtype") or "bfloat16")
    form = quantization_of(text)
    if checkpoint_bytes and form is None:
        counts = counts.scaled_to(checkpoint_bytes // _DTYPE_BYTES.get(dtype, 2))
    on_disk = (checkpoint_bytes or _stored_bytes(counts, form)) if form else None
    found = ModelShape(counts, kv_bytes, max_positions(text), dtype, form, on_disk, layers)
    return replace(found, kv_bytes_in_8_bits=in_8_bits, rank_bytes=of_rank)


def _stored_bytes(counts: WeightCounts, form: Mapping[str, Any]) -> int:
    """An estimate for a stored form whose files were not weighed; of a refused one, as if it had 4 bits."""
    linears = experts = max((codes.file_bytes for codes in stored_codes(form)), default=4 / 8 * 1.1)
    method = method_of(form)
    if method == "mxfp4":
        linears, experts = 2, 4.25 / 8  # only experts are packed, with 8 bits of scale for each 32
    elif method.startswith("bitsandbytes"):
        experts = 2  # dense in its files too
    dense = 2 * (counts.embeddings + counts.output + counts.other)
    return int(counts.linears * linears + counts.experts * experts) + dense
