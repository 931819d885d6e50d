"""The matrix unit's tiles (AMX) in LLVM's instructions, and the shapes that a thread gives them.

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
# Bytes of a row, which is a line of the cache, and of a tile.
LINE = 64
TILE_BYTES = TILE_ROWS * LINE
_NUM_TILES = 8

BYTE, LONG = ir.IntType(8), ir.IntType(64)


def tile_call(builder, name: str, *arguments: Any) -> None:
    """Call one of LLVM's functions for tiles; an int is a tile's number."""
    given = [ir.Constant(BYTE, one) if isinstance(one, int) else one for one in arguments]
    kind = ir.FunctionType(ir.VoidType(), [one.type for one in given])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), given)


def bytes_behind(builder, pointer, offset):
    """The address `offset` bytes behind `pointer`."""
    return builder.gep(builder.bitcast(pointer, BYTE.as_pointer()), [offset])


@intrinsic
def configure_tiles(_context, shapes):  # pragma: no cover
    """Give this thread's tiles their shapes; `shapes` is the address of what `tile_shapes` makes."""

    def generate(_context, builder, _signature, arguments):
        tile_call(builder, "ldtilecfg", builder.inttoptr(arguments[0], BYTE.as_pointer()))

    return types.void(types.int64), generate


@intrinsic
def release_tiles(_context):  # pragma: no cover
    """Back to no tiles, which is what the operating system saves fastest."""

    def generate(_context, builder, _signature, _arguments):
        tile_call(builder, "tilerelease")

    return types.void(), generate


def tile_shapes(rows: Mapping[int, int], widths: Mapping[int, int]) -> Tensor:
    """The 64 bytes that tell the matrix unit the shapes of tiles: those named have fewer rows, or fewer bytes a row."""
    # Palette 1; bytes of a row, 16 bits for each tile, from byte 16; rows from byte 48.
    shapes = torch.zeros(64, dtype=torch.uint8)
    shapes[0] = 1
    for tile in range(_NUM_TILES):
        shapes[16 + 2 * tile] = widths.get(tile, LINE)
        shapes[48 + tile] = rows.get(tile, TILE_ROWS)
    return shapes
