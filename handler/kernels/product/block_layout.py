"""Prepacked layout of weights of 4 to 8 bits for the vector kernels, and `PackedBlocks`, a matrix in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from handler.kernels.product.block_form import BLOCK, BlockForm
from handler.kernels.product.code_packing import packed_words
from handler.kernels.vectors import LANES


@dataclass(frozen=True, slots=True, eq=False)
class PackedBlocks:
    """A matrix of N outputs and K inputs for a kernel of `form`; products are multiplied by `factor`, a power of two.

    `codes` as from `packed_codes`, or from `tiled_codes` for the matrix unit (AMX); `scales` as from `packed_scales`;
    `table` as from `packed_table`, or None.
    """

    form: BlockForm
    codes: Tensor
    scales: Tensor
    table: Tensor | None = None
    factor: float = 1.0

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All it holds."""
        return (self.codes, self.scales) if self.table is None else (self.codes, self.scales, self.table)

    def joins(self, other: PackedBlocks) -> bool:
        """True if one kernel call can multiply by both."""
        if (self.form, self.factor, self.codes.shape[1:]) != (other.form, other.factor, other.codes.shape[1:]):
            return False
        if self.codes.dtype is not other.codes.dtype or self.table is None or other.table is None:
            return self.codes.dtype is other.codes.dtype and self.table is other.table
        return torch.equal(self.table, other.table)

    def split(self, sizes: Sequence[int]) -> list[PackedBlocks]:
        """Views of as many outputs as `sizes` says."""
        groups = [size // LANES for size in sizes]
        both = zip(self.codes.split(groups), self.scales.split(groups), strict=True)
        return [replace(self, codes=codes, scales=scales) for codes, scales in both]


def cat(parts: Sequence[PackedBlocks]) -> PackedBlocks:
    """The outputs of all `parts`, which join."""
    codes, scales = _whole([one.codes for one in parts]), _whole([one.scales for one in parts])
    return replace(parts[0], codes=codes, scales=scales)


def _whole(parts: Sequence[Tensor]) -> Tensor:
    """The parts one after the other: a view if they are that in memory, as those of a mapped file may be."""
    first = parts[0]
    size = sum(len(part) for part in parts)
    if all(_follows(one, other) for one, other in pairwise(parts)):
        return first.as_strided((size, *first.shape[1:]), first.stride(), first.storage_offset())
    return torch.cat(list(parts))


def _follows(one: Tensor, other: Tensor) -> bool:
    same = one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    both = one.is_contiguous() and other.is_contiguous() and one.dtype is other.dtype
    return same and both and one.data_ptr() + one.nbytes == other.data_ptr()


def packed_codes(codes: Tensor, bits: int, by_table: bool = False) -> Tensor:
    """`codes` uint8 `[N, K]` for `block_tile`, in `bits` 4, 5, 6 or 8.

    8 bits: uint8 `[N / 16, K / 32, 16, 16, 2]`, two inputs for each of 16 outputs; with a table `[.., 8, 4, 2, 4, 2]`,
    two inputs for each of 4 outputs, then two more, then the next outputs. Else int32
    `[N / 16, K / 32, bits, 16]`. In each of the first four numbers of a lane are eight low nibbles of one output, that
    of input 2s in bits 4s to 4s + 3 and that of input 2s + 1 in bits 16 + 4s on. The others hold the bits above,
    `bits - 4` for each input, in the same order.
    """
    if bits < 8:
        return packed_words(codes, bits)
    num_rows, num_columns = codes.shape
    if by_table:
        twos = codes.reshape(num_rows // LANES, 4, 4, num_columns // BLOCK, BLOCK // 4, 2, 2)
        return twos.permute(0, 3, 4, 1, 5, 2, 6).contiguous()
    pairs = codes.reshape(num_rows // LANES, LANES, num_columns // BLOCK, BLOCK // 2, 2)
    return pairs.permute(0, 2, 3, 1, 4).contiguous()


def packed_scales(scale: Tensor, minimum: Tensor | None) -> Tensor:
    """Scales, and minima if there are any, as float16 `[N / 16, K / inputs, 2 or 1, 16]`."""
    both = torch.stack((scale,) if minimum is None else (scale, minimum), -1).half()
    return both.view(-1, LANES, *both.shape[1:]).permute(0, 2, 3, 1).contiguous()


def packed_table(table: Tensor) -> Tensor:
    """Up to 16 values as bfloat16 `[32]`: twice, and zeros for codes that do not occur.

    Of 256 values the first 128 as bfloat16, their lower bytes and then their upper ones, uint8 `[256]`.
    """
    if len(table) > 16:
        return table[:128].bfloat16().view(torch.uint8).view(128, 2).T.contiguous().view(-1)
    padded = torch.zeros(16)
    padded[: len(table)] = table
    return padded.bfloat16().repeat(2)
