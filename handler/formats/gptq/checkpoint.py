"""GPTQ: codes packed along the inputs, zero points along the outputs, groups named input by input (`g_idx`).

Sources: gptqmodel 7.7 (`PackableQuantLinear.pack_original`, `planar_packing`, `convert_gptq_v1_to_v2_format_module`).
Bits and group size are read off the tensors of each module, so that overrides by module (`dynamic`) need no rule here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from handler.formats.integer_codes import unpack, with_zero_points
from handler.formats.tensor_files import TensorFiles
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

_PARTS = ("qweight", "qzeros", "scales", "g_idx")
# Widths of the planes of gptq_p.
_PLANES = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}
# Groups of unequal size are cut into equal ones, but not below this size: scales would outweigh dense weights.
_SMALLEST = 16
_WAY_OUT = "take a checkpoint of the same model in the form gptq or gptq_v2, or in 16 bits"


class GptqFormat:
    """A `StoredFormat`. `minus_one` says that zero points are stored minus one, `planar` that codes lie in planes."""

    def __init__(self, tensors: TensorFiles, values: Mapping[str, Any], *, minus_one: bool, planar: bool) -> None:
        """`values` are the `quantization_config`, for modules whose tensors leave bits or group size open."""
        self._tensors = tensors
        self._bits, self._group = int(values.get("bits") or 4), int(values.get("group_size") or -1)
        self._minus_one, self._planar = minus_one, planar

    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """See `StoredFormat`."""
        modules = [name.removesuffix(".qweight") for name in self._tensors if name.endswith(".qweight")]
        parts = {module: [f"{module}.{part}" for part in _PARTS] for module in modules}
        return {f"{module}.weight": tuple(x for x in names if x in self._tensors) for module, names in parts.items()}

    def read(self, name: str) -> QuantisedWeight | Tensor:
        """See `StoredFormat`. Dense for groups of unequal size that have no common part of 16 inputs."""
        module = name.removesuffix(".weight")
        missing = [part for part in _PARTS[:3] if f"{module}.{part}" not in self._tensors]
        if missing:
            raise BadModel(f"the GPTQ weight {module} has no {missing[0]} in the files; {_WAY_OUT}")
        qweight, qzeros, scales = (self._tensors[f"{module}.{part}"] for part in _PARTS[:3])
        num_groups, num_outputs = scales.shape
        # Fewer outputs than a word has bits do not fill the words.
        bits = qzeros.shape[-1] * _width(qzeros) // num_outputs if num_outputs >= _width(qzeros) else self._bits
        if not 2 <= bits <= 8 or qweight.shape[1] != num_outputs or qzeros.shape[0] != num_groups:
            shapes = ", ".join(str(list(each.shape)) for each in (qweight, qzeros, scales))
            raise BadModel(f"qweight, qzeros and scales of {module} do not fit together as GPTQ: {shapes}; {_WAY_OUT}")
        index = self._index(module, qweight.shape[0] * _width(qweight) // bits, num_groups)
        codes = self._unpacked(qweight.t(), bits, len(index))
        if self._minus_one:
            qzeros = _plus_one(qzeros, bits)
        zeros = self._unpacked(qzeros, bits, num_outputs)
        if self._minus_one and _width(qzeros) % bits:
            zeros = (zeros + 1) & (2**bits - 1)
        return _grouped(bits, codes, scales.t(), zeros.t(), index)

    def _index(self, module: str, num_inputs: int, num_groups: int) -> Tensor:
        """The group of each input: int64 `[K]`."""
        if f"{module}.g_idx" in self._tensors:
            index = self._tensors[f"{module}.g_idx"].long()
            if not len(index) or int(index.min()) < 0 or int(index.max()) >= num_groups or len(index) > num_inputs:
                raise BadModel(
                    f"g_idx of the GPTQ weight {module} names groups that its scales do not have; {_WAY_OUT}"
                )
            return index
        fits = self._group > 0 and math.ceil(num_inputs / self._group) == num_groups
        return torch.arange(num_inputs) // (self._group if fits else math.ceil(num_inputs / num_groups))

    def _unpacked(self, words: Tensor, bits: int, count: int) -> Tensor:
        """Codes of the rows of `words`: uint8 `[rows, count]`."""
        if not self._planar or bits not in _PLANES:
            return unpack(words, bits, count)
        # 32 codes lie in `bits` words: first their lowest bits, then the next ones.
        blocks = words.unflatten(-1, (-1, bits))
        codes = torch.zeros((words.shape[0], blocks.shape[1] * 32), dtype=torch.uint8)
        offset = 0
        for width in _PLANES[bits]:
            codes |= unpack(blocks[..., offset : offset + width].flatten(-2), width, codes.shape[1]) << offset
            offset += width
        return codes[:, :count]


def _width(words: Tensor) -> int:
    """Bits of a word."""
    return words.element_size() * 8


def _plus_one(qzeros: Tensor, bits: int) -> Tensor:
    """Zero points plus one, where no code is cut by the end of a word.

    Writers subtract from whole words, and a zero point of 0 borrows from its neighbour; adding to whole words gives
    both back.
    """
    width = _width(qzeros)
    if width % bits:
        return qzeros
    ones = sum(1 << place for place in range(0, width, bits))
    return qzeros + torch.tensor(ones - (1 << width if ones >> (width - 1) else 0), dtype=qzeros.dtype)


def _grouped(bits: int, codes: Tensor, scale: Tensor, zeros: Tensor, index: Tensor) -> QuantisedWeight | Tensor:
    """The weight with the inputs of a group side by side; `codes` `[N, K]`, `scale` and `zeros` `[N, G]`."""
    order = torch.argsort(index, stable=True)
    groups, sizes = torch.unique_consecutive(index[order], return_counts=True)
    size = math.gcd(*sizes.tolist())
    repeats = sizes // size
    scale, zeros = (each[:, groups].repeat_interleave(repeats, 1) for each in (scale, zeros))
    is_ordered = bool((index[1:] >= index[:-1]).all())
    codes = codes if is_ordered else codes.gather(1, order.expand_as(codes))
    weight = with_zero_points(bits, codes, scale, zeros, None if is_ordered else order)
    return weight if size >= _SMALLEST or len(set(sizes.tolist())) == 1 else weight.dequantise(torch.float32)
