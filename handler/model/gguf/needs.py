"""What becomes of the weights of .gguf files at load, and the memory that they take then."""

from __future__ import annotations

from math import prod

import torch

from handler.formats.gguf.block_types import BLOCK_TYPES
from handler.formats.gguf.manifest import Manifest, SourceTensor
from handler.seam.config import Quantize
from model_memory.forms import quantized

# Tensors of the input embedding, which stays dense, and of an output layer of its own.
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"


def stays_as_stored(quantize: Quantize, dtype: torch.dtype) -> bool:
    """Whether the weights are multiplied as they are; in float32 a weight is exact only as a dense one."""
    return quantize == Quantize.INT4_BLOCKS or (quantize == Quantize.AUTO and dtype is not torch.float32)


def gguf_bytes(manifest: Manifest, dtype: torch.dtype, capability: int) -> int:
    """Bytes of the weights on a GPU of compute capability `capability`, computing in `dtype`."""
    refused = quantized("int4", capability, in_bfloat16=dtype is torch.bfloat16).refused
    total = 0
    for name, tensor in manifest.tensors.items():
        dense = prod(tensor.shape) * dtype.itemsize
        packed = dense if refused else _packed_bytes(tensor, capability) or dense
        if name == _EMBEDDING:
            # Without an output layer of its own, the model has the same weights in both forms.
            total += dense + (packed if _OUTPUT not in manifest.tensors and packed < dense else 0)
        else:
            total += packed
    return total


def _packed_bytes(tensor: SourceTensor, capability: int) -> int | None:
    """In blocks of 4 or 8 bits (docs/decisions/0104); None for what has no such layer."""
    kind = BLOCK_TYPES.get(tensor.kind)
    if kind is None or len(tensor.shape) != 2 or kind.group % 32:
        return None
    # A table's levels lie too far apart for four bits.
    form = quantized("int4" if kind.bits <= 4 and kind.table is None else "int8", capability)
    return int(prod(tensor.shape) * (form.linears or 0))
