"""What the tensors of a .gguf file take in a GPU's memory, by their types and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Protocol

from model_memory.stored_codes import GGUF
from model_memory.stored_forms import held_as

# Tensors of the input embedding, which stays dense, and of an output layer of its own.
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
# What the outputs and inputs of a weight must divide by for torch's int4 product.
_TILE = (8, 32)


class Stored(Protocol):
    """A tensor: ggml's name of its type, and its shape with the inputs last."""

    @property
    def kind(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


def gguf_bytes(tensors: Mapping[str, Stored], itemsize: int, capability: int, *, in_bfloat16: bool = True) -> int:
    """Bytes of the weights on a GPU of compute capability `capability`; `itemsize` is that of its dtype.

    The types are kept, as HF_MODEL_QUANTIZE=auto and int4 do (docs/quantisation.md); experts too.
    """
    total = 0
    for name, tensor in tensors.items():
        dense = prod(tensor.shape) * itemsize
        packed = _packed_bytes(tensor, capability, in_bfloat16=in_bfloat16) or dense
        if name == _EMBEDDING:
            # Without an output layer of its own, the model has the same weights in both forms.
            total += dense + (packed if _OUTPUT not in tensors and packed < dense else 0)
        else:
            total += packed
    return total


def dense_types(tensors: Iterable[Stored], capability: int) -> tuple[str, ...]:
    """The types of quantised matrices among `tensors` that a GPU holds dense, in order."""
    found = (each.kind for each in tensors if len(each.shape) > 1 and _is_quantised(each.kind))
    return tuple(sorted({kind for kind in found if kind not in GGUF or held_as(GGUF[kind], capability)[0] is None}))


def _is_quantised(kind: str) -> bool:
    return not kind.startswith(("F", "BF", "I8", "I16", "I32", "I64"))


def _packed_bytes(tensor: Stored, capability: int, *, in_bfloat16: bool) -> int | None:
    """As a layer multiplies it (`stored_forms.py`); None for what has no such layer."""
    codes = GGUF.get(tensor.kind)
    held = None if codes is None else held_as(codes, capability, in_bfloat16=in_bfloat16)[0]
    if held is None or len(tensor.shape) < 2 or any(map(_remainder, tensor.shape[-2:], _TILE)):
        return None
    return int(prod(tensor.shape) * held)


def _remainder(size: int, tile: int) -> int:
    return size % tile
