"""A tensor of a .gguf file as a quantised or a dense weight, read a piece at a time."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from handler.formats.gguf.block_types import BLOCK_TYPES
from handler.formats.gguf.manifest import SourceTensor
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

# Weights decoded at a time: the parts of a piece stay in the processor's cache.
_PIECE = 1 << 20
# Types that gguf dequantises and that are no codes in groups: ternary by fives, points of lattices.
_MADE_DENSE = frozenset({"TQ1_0", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"})
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

# (first byte, number of bytes) of a tensor -> uint8.
ReadBytes = Callable[[int, int], Tensor]


def check_kind(name: str, kind: str) -> None:
    """Raise BadModel if the tensor `name` is of a type that holds no weights, or none that are known."""
    if kind not in BLOCK_TYPES and kind not in _PLAIN and kind not in _MADE_DENSE:
        raise BadModel(
            f"the tensor {name} of the GGUF file is of type {kind}, which is not read; "
            "take a file of another type, such as Q4_K_M or Q8_0"
        )


def read_tensor(tensor: SourceTensor, read: ReadBytes) -> QuantisedWeight | Tensor:
    """The weights of `tensor`, of a kind that `check_kind` accepts; dense ones as stored, else in float32."""
    if tensor.kind in BLOCK_TYPES:
        return quantised(tensor.kind, tensor.shape, read)
    if tensor.kind in _PLAIN:
        return read(0, tensor.num_bytes).view(_PLAIN[tensor.kind]).view(tensor.shape)
    return _dequantised(tensor, read)


def quantised(kind: str, shape: tuple[int, ...], read: ReadBytes) -> QuantisedWeight:
    """A tensor of blocks of `kind`, a name of BLOCK_TYPES; `shape` `[..., N, K]`."""
    each = BLOCK_TYPES[kind]
    num_blocks, groups = prod(shape) // each.weights, each.weights // each.group
    codes = torch.empty(num_blocks, each.weights, dtype=torch.uint8)
    scale, minimum = torch.empty(num_blocks, groups), torch.empty(num_blocks, groups if each.has_minimum else 0)
    step = max(1, _PIECE // each.weights)
    for first in range(0, num_blocks, step):
        count = min(step, num_blocks - first)
        raw = read(first * each.num_bytes, count * each.num_bytes).view(count, each.num_bytes)
        rows = slice(first, first + count)
        codes[rows], scale[rows], some = each.decode(raw)
        if some is not None:
            minimum[rows] = some
    leading = shape[:-1]
    shaped = minimum.view(*leading, -1) if each.has_minimum else None
    return QuantisedWeight(each.bits, codes.view(shape), scale.view(*leading, -1), shaped, each.zero, each.table)


def _dequantised(tensor: SourceTensor, read: ReadBytes) -> Tensor:
    """By the package gguf, some rows at a time."""
    from gguf import GGMLQuantizationType, dequantize

    num_inputs, num_rows = tensor.shape[-1], prod(tensor.shape[:-1])
    row = tensor.num_bytes // num_rows
    out = torch.empty(num_rows, num_inputs)
    step = max(1, _PIECE // num_inputs)
    for first in range(0, num_rows, step):
        count = min(step, num_rows - first)
        raw = read(first * row, count * row).view(count, row).numpy()
        out[first : first + count] = torch.from_numpy(dequantize(raw, GGMLQuantizationType[tensor.kind]))
    return out.view(tensor.shape)
