"""A quantised weight packed for our own kernels: form, codes, scales in float16, table in bfloat16.

docs/decisions/0107.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from handler.kernels.compiler import looks_up_bytes
from handler.kernels.product.block_form import BLOCK, MINIMUM, TABLE, BlockForm
from handler.kernels.product.block_layout import PackedBlocks, packed_codes, packed_scales, packed_table
from handler.kernels.product.tile_layout import tiled_codes
from handler.linears.packed_linear import kernel_bits
from handler.linears.quantised_weight import QuantisedWeight
from handler.linears.weight_blocks import in_blocks

# Outputs that a kernel takes at a time.
_OUTPUTS = 64
# Inputs that may share a scale; other groups repeat theirs.
_GROUPS = (128, 64, BLOCK, 16)
# Values of a table.
_NUM_NIBBLES, _NUM_BYTES = 16, 256
# Largest exponent of a power of two by which scales are multiplied.
_MOST = 126
# Of the largest scale of a row: what float16 changes in scales as they are, and in those multiplied by a power of two.
_CLOSE, _CLOSE_ENOUGH = 2.0**-11, 2.0**-10


def packed_blocks(weight: QuantisedWeight, tiles: bool) -> PackedBlocks | None:
    """`weight` `[N, K]` without `order`; None if no kernel takes it. `tiles`: for the matrix unit, where it takes it.

    A table is rounded to bfloat16, scales and minima to float16, all multiplied by a power of two if that is needed.
    """
    num_outputs, num_inputs = weight.shape
    if num_outputs % _OUTPUTS or num_inputs % BLOCK or not num_outputs or weight.group % _GROUPS[-1]:
        return None
    blocks = in_blocks(weight) if tiles else None
    found = None if blocks is None else _tiled(blocks)
    return _for_vectors(weight) if found is None else found


def _tiled(blocks: QuantisedWeight) -> PackedBlocks | None:
    """In 4 or 8 bits with minima, which is what the matrix unit's kernel takes."""
    assert blocks.minimum is not None
    if _exponent(blocks.scale, blocks.minimum) != 0:
        return None
    bits = kernel_bits(blocks.bits)
    scales = packed_scales(blocks.scale, blocks.minimum)
    return PackedBlocks(BlockForm(bits), tiled_codes(blocks.codes, bits), scales)


def _for_vectors(weight: QuantisedWeight) -> PackedBlocks | None:
    inputs = next(each for each in _GROUPS if weight.group % each == 0)
    weight, table = _with_values(weight), None
    zero, values = MINIMUM if weight.minimum is not None else 0, weight.table
    if values is None:
        weight = _widened(weight)
        form = BlockForm(weight.bits, inputs, zero or int(weight.zero))
    elif len(values) <= _NUM_NIBBLES:
        multiple = _multiple(values)
        table, form = packed_table(values * multiple), BlockForm(4, inputs, zero, TABLE)
        weight = replace(weight, scale=weight.scale / multiple)
    elif _is_looked_up(values):
        table, form = packed_table(values), BlockForm(8, inputs, zero, TABLE)
    else:
        return None
    exponent = _exponent(weight.scale, weight.minimum)
    if exponent is None:
        return None
    scale, minimum = (
        None if each is None else (each * 2.0**exponent).repeat_interleave(weight.group // inputs, -1)
        for each in (weight.scale, weight.minimum)
    )
    assert scale is not None
    codes = packed_codes(weight.codes, form.bits, by_table=table is not None)
    return PackedBlocks(form, codes, packed_scales(scale, minimum), table, 2.0**-exponent)


def _with_values(weight: QuantisedWeight) -> QuantisedWeight:
    """The same numbers with either a minimum or a whole `zero` from 0 to 128; a table has its `zero` in it."""
    scale, minimum, zero = weight.scale, weight.minimum, weight.zero
    if weight.table is not None and weight.zero:
        return replace(weight, table=weight.table - zero, zero=0.0)
    if minimum is None and not (zero == int(zero) and 0 <= zero <= 128):
        minimum = torch.zeros_like(scale)
    if minimum is None:
        return weight
    minimum = minimum - zero * scale if zero else minimum
    # What is a constant in the kernel need not be read from memory. Products have the same bits.
    middle = float(1 << (kernel_bits(weight.bits) - 1))
    if weight.table is None and torch.equal(minimum, -middle * scale):
        return replace(weight, minimum=None, zero=middle)
    return replace(weight, minimum=minimum, zero=0.0)


def _widened(weight: QuantisedWeight) -> QuantisedWeight:
    """In the bits of a kernel. A zero moves to the middle with its codes, so that fewer kernels are compiled."""
    bits = 8 if weight.bits == 7 else max(weight.bits, 4)
    moved = (1 << (bits - 1)) - int(weight.zero)
    if weight.minimum is not None or not 0 < moved <= (1 << bits) - (1 << weight.bits):
        return replace(weight, bits=bits)
    return replace(weight, bits=bits, codes=weight.codes + moved, zero=weight.zero + moved)


def _multiple(table: Tensor) -> int:
    """The factor by which bfloat16 holds the table best: 12 holds all values of bitsandbytes' FP4, for instance."""

    def off(multiple: int) -> float:
        numbers = table.double() * multiple
        return float(((numbers.float().bfloat16().double() - numbers) / numbers.abs().clamp(min=1e-30)).square().sum())

    return min(range(1, 65), key=lambda multiple: (round(off(multiple), 12), multiple))


def _is_looked_up(table: Tensor) -> bool:
    """True for 128 values and their negatives, as 8-bit floats are, where the processor looks bytes up."""
    halves = table.split(_NUM_BYTES // 2)
    mirrored = len(table) == _NUM_BYTES and torch.allclose(halves[1], -halves[0], rtol=0, atol=0, equal_nan=True)
    return mirrored and looks_up_bytes()


def _exponent(scale: Tensor, minimum: Tensor | None) -> int | None:
    """The power of two times which float16 holds scales and minima; 0 if it holds them as they are; None if neither."""
    numbers = [scale] if minimum is None else [scale, minimum]
    if all(_held(each, _CLOSE) for each in numbers):
        return 0
    largest = max(float(each.abs().max()) for each in numbers)
    if not math.isfinite(largest) or largest == 0:
        return None
    # The largest becomes one from 2^13 to 2^14, below float16's largest.
    exponent = min(14 - math.frexp(largest)[1], _MOST)
    return exponent if all(_held(each * 2.0**exponent, _CLOSE_ENOUGH) for each in numbers) else None


def _held(numbers: Tensor, limit: float) -> bool:
    """True if float16 changes no number by more than `limit` of the largest of its row."""
    sizes = numbers.abs()
    return bool(((numbers.half().float() - numbers).abs() <= limit * sizes.amax(-1, keepdim=True)).all())
