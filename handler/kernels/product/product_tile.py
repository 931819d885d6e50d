"""Inner loop of products on the matrix unit: tiles of weights times tiles of activations, in LLVM instructions.

Weights are the left operand, 16 outputs by 32 inputs; activations the right one, 16 pairs of inputs by 16 rows; so
products are 16 outputs by 16 rows. Two groups of outputs and up to two of rows are multiplied together. Each sum runs
over all inputs in one tile, in their order.
"""

from __future__ import annotations

from functools import partial
from itertools import zip_longest

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from handler.kernels.product.unpacked_tile import SCALES_BYTES, WIDE_SCALES_BYTES, Unpacker, codes_bytes, fetch_block
from handler.kernels.tiles import BYTE, LINE, LONG, TILE_BYTES, TILE_ROWS, bytes_behind, tile_call
from handler.kernels.vectors import INTS, index, transposed

# Groups of 16 outputs, and of 16 rows, multiplied together.
PAIR = 2
# Tiles are unpacked this many blocks before they are loaded: a load waits for the stores it reads.
AHEAD = 2
# Blocks in the ring of unpacked tiles that are each used once.
RING = 8
# Bits of a bfloat16 weight, which is not unpacked.
DENSE = 16
# Its tiles are prefetched this many blocks before they are loaded.
_FETCHED = 6

# Bytes of scratch for unpacked tiles: once, and for each block.
ROOM_BYTES, ROOM_BLOCK_BYTES = PAIR * WIDE_SCALES_BYTES, PAIR * TILE_BYTES

# Indices in a plan: addresses, then numbers.
WEIGHTS, WEIGHT_SCALES, NEXT_WEIGHTS, NEXT_SCALES, FROM_TILES, ROOM, TO_TILES = range(7)
BLOCKS, MASK, ROOM_BLOCKS, STEP, LINE_BYTES = range(7, 12)
PLAN_SIZE = 12

# Tile numbers: products by group and half of the rows, weights by group, activations by half.
_PRODUCTS, _WEIGHTS, _ACTIVATIONS = ((0, 1), (2, 3)), (4, 5), (6, 7)
# Tiles as wide as there are rows.
BY_ROWS = (0, 1, 2, 3, 6, 7)


class _Multiplier:
    """Emits the loop over the blocks of two groups."""

    def __init__(self, builder, bits: int, halves: int, first: bool, plan) -> None:
        self.b, self.bits, self.halves = builder, bits, halves
        self.unpacks, self.fetches = first and bits != DENSE, first and bits == DENSE
        addresses = [builder.inttoptr(one, BYTE.as_pointer()) for one in plan[:BLOCKS]]
        self.here, self.following = addresses[:2], addresses[2:4]
        self.x, self.room, self.out = addresses[4:]
        self.blocks, self.mask, self.room_blocks, self.step, self.line = plan[BLOCKS:]
        # Weights that need no unpacking are read where they are.
        self.weights = self.here[0] if bits == DENSE else bytes_behind(builder, self.room, index(ROOM_BYTES))
        self.distance = self.blocks if bits == DENSE else self.room_blocks
        self.unpackers = [self._unpacker(group) for group in range(PAIR)] if self.unpacks else []

    def _unpacker(self, group: int) -> Unpacker:
        sizes = (codes_bytes(self.bits), SCALES_BYTES)
        here, following = (
            [self._of_group(group, one, size) for one, size in zip(both, sizes, strict=True)]
            for both in (self.here, self.following)
        )
        wide = bytes_behind(self.b, self.room, index(group * WIDE_SCALES_BYTES))
        return Unpacker(self.b, self.bits, self.blocks, here, following, wide)

    def _of_group(self, group: int, address, size: int):
        """The address of a group whose blocks have `size` bytes; `address` is that of group 0."""
        return bytes_behind(self.b, address, self.b.mul(self.blocks, index(group * size)))

    def run(self) -> None:
        b = self.b
        for half in range(self.halves):
            for group in range(PAIR):
                tile_call(b, "tilezero", _PRODUCTS[group][half])
        rest = index(0)
        if self.unpacks:
            few = b.icmp_signed("<", self.blocks, index(AHEAD))
            with cgutils.for_range(b, b.select(few, self.blocks, index(AHEAD)), intp=LONG) as loop:
                for part in self._unpacking(loop.index):
                    part()
            rest = b.select(few, index(0), b.sub(self.blocks, index(AHEAD)))
            with cgutils.for_range(b, rest, intp=LONG) as loop:
                self._both(loop.index)
        with cgutils.for_range_slice(b, rest, self.blocks, index(1), LONG) as (block, _):
            for part in self._multiplying(block):
                part()
        for half in range(self.halves):
            for group in range(PAIR):
                place = b.mul(self.step, index(half * PAIR + group))
                tile_call(b, "tilestored64", _PRODUCTS[group][half], bytes_behind(b, self.out, place), self.line)

    def _both(self, block) -> None:
        """Multiply by one block while unpacking a later one: instructions of both are interleaved."""
        unpacking = self._unpacking(self.b.add(block, index(AHEAD)))
        for parts in zip_longest(unpacking, self._multiplying(block)):
            for part in parts:
                if part is not None:
                    part()

    def _unpacking(self, block):
        for group, unpacker in enumerate(self.unpackers):
            yield from unpacker.parts(block, self._tile(group, block))

    def _tile(self, group: int, block):
        """The address of a block's weights."""
        b = self.b
        kept = block if self.bits == DENSE else b.and_(block, self.mask)
        place = b.add(kept, b.mul(self.distance, index(group)))
        return bytes_behind(b, self.weights, b.mul(place, index(TILE_BYTES)))

    def _multiplying(self, block):
        for group in range(PAIR):
            yield partial(self._load_weights, group, block)
            if group < self.halves:
                yield partial(self._load_activations, group, block)
        for half in range(self.halves):
            for group in range(PAIR):
                tiles = (_PRODUCTS[group][half], _WEIGHTS[group], _ACTIVATIONS[half])
                yield partial(tile_call, self.b, "tdpbf16ps", *tiles)

    def _load_weights(self, group: int, block) -> None:
        b, place = self.b, self._tile(group, block)
        if self.fetches:
            here, there = (self._of_group(group, one, TILE_BYTES) for one in (self.here[0], self.following[0]))
            fetch_block(b, b.add(block, index(_FETCHED)), self.blocks, here, there, TILE_BYTES)
        tile_call(b, "tileloadd64", _WEIGHTS[group], place, index(LINE))

    def _load_activations(self, half: int, block) -> None:
        b = self.b
        place = b.mul(b.add(block, b.mul(self.blocks, index(half))), self.step)
        tile_call(b, "tileloadd64", _ACTIVATIONS[half], bytes_behind(b, self.x, place), self.line)


@intrinsic(prefer_literal=True)
def multiply_tiles(_context, bits, halves, first, plan):  # pragma: no cover
    """Write products of 32 outputs with 16 rows, or 32 if `halves` is 2, as tiles, float32 `[16, rows]`.

    `bits`, `halves` and `first` are literal; `plan` has the integers named above. `FROM_TILES` has a tile for each
    block, `STEP` bytes apart, of rows `LINE_BYTES` apart; `TO_TILES` gets products likewise, for each half the two
    groups in turn. `ROOM` is scratch of `ROOM_BYTES` plus `ROOM_BLOCK_BYTES` for each of `ROOM_BLOCKS`: if `first`,
    weights are unpacked to it, each block at its number & `MASK`; else they are already there. `NEXT_WEIGHTS` and
    `NEXT_SCALES` are those of the two groups that this thread multiplies by next.
    """
    num_bits, num_halves, is_first = bits.literal_value, halves.literal_value, bool(first.literal_value)

    def generate(_context, builder, _signature, arguments):
        plan = [builder.load(builder.gep(arguments[3], [index(i)])) for i in range(PLAN_SIZE)]
        _Multiplier(builder, num_bits, num_halves, is_first, plan).run()

    return types.void(bits, halves, first, types.CPointer(types.int64)), generate


@intrinsic
def turn_tile(_context, source, stride, last, out, out_stride):  # pragma: no cover
    """Transpose 16 rows of 16 32-bit numbers. Strides are in bytes; all arguments are integers.

    Row `last` replaces the rows after it.
    """

    def generate(_context, builder, _signature, arguments):
        source, stride, last, out, out_stride = arguments
        rows = []
        for r in range(TILE_ROWS):
            row = builder.select(builder.icmp_signed("<", last, index(r)), last, index(r))
            place = builder.add(source, builder.mul(row, stride))
            rows.append(builder.load(builder.inttoptr(place, INTS.as_pointer()), align=4))
        for i, column in enumerate(transposed(builder, rows)):
            place = builder.add(out, builder.mul(out_stride, index(i)))
            builder.store(column, builder.inttoptr(place, INTS.as_pointer()), align=4)

    return types.void(*[types.int64] * 5), generate
