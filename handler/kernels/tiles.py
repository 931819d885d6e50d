"""Tiles of the matrix unit (AMX), in LLVM instructions, and their shapes.

There are eight, of up to 16 rows by 64 bytes. A thread configures them before use and releases them afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

TILE_ROWS = 16
# Bytes of a row, which is a cache line, and of a tile.
LINE = 64
TILE_BYTES = TILE_ROWS * LINE
_NUM_TILES = 8

BYTE, LONG = ir.IntType(8), ir.IntType(64)


def tile_call(builder, name: str, *arguments: Any) -> None:
    """Call an LLVM intrinsic for tiles; an int is a tile number."""
    given = [ir.Constant(BYTE, one) if isinstance(one, int) else one for one in arguments]
    kind = ir.FunctionType(ir.VoidType(), [one.type for one in given])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), given)


def bytes_behind(builder, pointer, offset):
    """The address `offset` bytes after `pointer`."""
    return builder.gep(builder.bitcast(pointer, BYTE.as_pointer()), [offset])


@intrinsic
def configure_tiles(_context, shapes):  # pragma: no cover
    """Set the shapes of this thread's tiles; `shapes` is the address of `tile_shapes`' bytes."""

    def generate(_context, builder, _signature, arguments):
        tile_call(builder, "ldtilecfg", builder.inttoptr(arguments[0], BYTE.as_pointer()))

    return types.void(types.int64), generate


@intrinsic
def release_tiles(_context):  # pragma: no cover
    """Return to no tiles, the state that the operating system saves fastest."""

    def generate(_context, builder, _signature, _arguments):
        tile_call(builder, "tilerelease")

    return types.void(), generate


def tile_shapes(rows: Mapping[int, int], widths: Mapping[int, int]) -> Tensor:
    """The matrix unit's 64-byte configuration: `rows` and `widths` (bytes of a row) by tile, default 16 and 64."""
    # Palette 1. From byte 16 the bytes of a row, 16 bits for each tile; from byte 48 the rows.
    shapes = torch.zeros(64, dtype=torch.uint8)
    shapes[0] = 1
    for tile in range(_NUM_TILES):
        shapes[16 + 2 * tile] = widths.get(tile, LINE)
        shapes[48 + tile] = rows.get(tile, TILE_ROWS)
    return shapes
