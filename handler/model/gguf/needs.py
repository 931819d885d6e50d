"""What becomes of the weights of .gguf files at load, and the memory that they take then."""

from __future__ import annotations

from math import prod

import torch

from handler.formats.gguf.manifest import Manifest, SourceTensor
from handler.seam.config import Quantize
from model_memory.stored_codes import GGUF
from model_memory.stored_forms import held_as

# Tensors of the input embedding, which stays dense, and of an output layer of its own.
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"


def stays_as_stored(quantize: Quantize, dtype: torch.dtype) -> bool:
    """Whether the weights are multiplied as they are; in float32 a weight is exact only as a dense one."""
    return dtype is not torch.float32 and quantize in (Quantize.INT4_BLOCKS, Quantize.AUTO)


def gguf_bytes(manifest: Manifest, dtype: torch.dtype, capability: int) -> int:
    """Bytes of the weights on a GPU of compute capability `capability`, computing in `dtype`."""
    in_bfloat16 = dtype is torch.bfloat16
    total = 0
    for name, tensor in manifest.tensors.items():
        dense = prod(tensor.shape) * dtype.itemsize
        packed = _packed_bytes(tensor, capability, in_bfloat16=in_bfloat16) or dense
        if name == _EMBEDDING:
            # Without an output layer of its own, the model has the same weights in both forms.
            total += dense + (packed if _OUTPUT not in manifest.tensors and packed < dense else 0)
        else:
            total += packed
    return total


def _packed_bytes(tensor: SourceTensor, capability: int, *, in_bfloat16: bool) -> int | None:
    """As a layer multiplies it (`model_memory/stored_forms.py`); None for what has no such layer."""
    codes = GGUF.get(tensor.kind)
    held = None if codes is None else held_as(codes, capability, in_bfloat16=in_bfloat16)[0]
    return None if held is None or len(tensor.shape) != 2 else int(prod(tensor.shape) * held)
