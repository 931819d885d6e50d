"""The inner loop of products with weights of 4 and 8 bits on a matrix unit: AMX's tiles, in LLVM's instructions.

A tile of weights is a block's 32 inputs for 16 outputs, decoded to bfloat16 exactly; a tile of products is 16 rows by
16 outputs, summed over one block and then scaled into float32 sums in vector registers.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from handler.native.block_tile import BLOCK, BlockEmitter
from handler.native.product_outputs import GROUPS
from handler.native.tiles import LINE, LONG, TILE_BYTES, TILE_ROWS, bytes_behind, tile_call
from handler.native.vectors import FLOATS, INTS, LANES, fetch, index, vector_at

# Products are read so many blocks after they were written, and weights loaded as tiles so many after they were
# unpacked: a load waits for the stores it takes from. So products of one block after the other have their own places.
LATER, RING = 2, 4
AHEAD = 4
# And fetched from memory so many blocks before they are unpacked.
FETCHED = 10

# The tiles' numbers. Where there are two, one has 16 rows and one as many as are left.
_PRODUCTS, _SUMS, _ACTIVATIONS, _WEIGHTS, ONES = (0, 3), (1, 4), (2, 5), 6, 7
TILES_OF_THE_REST = (3, 4, 5)
# One column wide.
NARROW_TILES = (1, 4, 7)

_LINE = index(LINE)


@intrinsic(prefer_literal=True)
def block_sums(_context, rest, x, stride, blocks, sums):  # pragma: no cover
    """Write the sums of each block of up to 16 rows to `sums`, float32 `[blocks, 16]`.

    `rest` and `x` as `matrix_tile` takes them; tile `ONES` holds ones.
    """
    which = rest.literal_value

    def generate(_context, builder, _signature, arguments):
        x, stride, blocks, sums = arguments[1:]
        with cgutils.for_range(builder, blocks, intp=LONG) as loop:
            tile_call(builder, "tilezero", _SUMS[which])
            given = bytes_behind(builder, x, builder.mul(loop.index, index(BLOCK * 2)))
            tile_call(builder, "tileloadd64", _ACTIVATIONS[which], given, stride)
            tile_call(builder, "tdpbf16ps", _SUMS[which], _ACTIVATIONS[which], ONES)
            place = bytes_behind(builder, sums, builder.mul(loop.index, index(TILE_ROWS * 4)))
            tile_call(builder, "tilestored64", _SUMS[which], place, index(4))

    return types.void(rest, x, stride, blocks, sums), generate


_CODES_OF = {4: types.CPointer(types.int32), 8: types.CPointer(types.uint8)}


@intrinsic(prefer_literal=True)
def codes_at(_context, address, bits):  # pragma: no cover
    """The address of codes of `bits`, which is literal, as something that `matrix_tile` takes."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return _CODES_OF[bits.literal_value](types.int64, bits), generate


class _MatrixEmitter(BlockEmitter):
    """As its base, but a block's products are the matrix unit's."""

    def __init__(self, builder, rows: int, bits: int, unpacks: int, which: int, pointers) -> None:
        codes, scales, x, stride, sums, blocks, weights, ring = pointers
        super().__init__(builder, rows, 1, bits, (codes, scales, x, sums, blocks))
        self.sums_width = TILE_ROWS
        self.stride, self.unpacked, self.ring = stride, weights, ring
        self.unpacks, self.which = unpacks, which

    def unpack(self, block) -> None:
        """Write a block's weights as a tile, int32 `[16, 16]`, and have those of a later one brought near."""
        b = self.b
        size = BLOCK * LANES * self.bits // 8
        later = b.mul(b.add(block, index(FETCHED)), index(size))
        for line in range(0, size, LINE):
            fetch(b, bytes_behind(b, self.codes, b.add(later, index(line))))
        fetch(b, bytes_behind(b, self.scales, b.mul(b.add(block, index(FETCHED)), index(LINE))))
        for pair, (weight,) in enumerate(self.weights(block)):
            place = b.add(b.mul(block, index(BLOCK // 2 * LANES)), index(pair * LANES))
            to = b.bitcast(b.gep(self.unpacked, [place]), INTS.as_pointer())
            b.store(b.bitcast(weight, INTS), to, align=64)

    def start(self) -> None:
        """What `block` finds done before it comes to it."""
        b, blocks = self.b, self.blocks
        if self.unpacks:
            with cgutils.for_range(b, _at_most(b, blocks, LATER + AHEAD), intp=LONG) as loop:
                self.unpack(loop.index)
        with cgutils.for_range(b, _at_most(b, blocks, LATER), intp=LONG) as loop:
            self.multiply(loop.index)

    def multiply(self, block) -> None:
        """Write one block's sums of products to its place in the ring."""
        b, products, activations = self.b, _PRODUCTS[self.which], _ACTIVATIONS[self.which]
        tile_call(b, "tilezero", products)
        x = bytes_behind(b, self.x, b.mul(block, index(BLOCK * 2)))
        tile_call(b, "tileloadd64", activations, x, self.stride)
        unpacked = bytes_behind(b, self.unpacked, b.mul(block, index(TILE_BYTES)))
        tile_call(b, "tileloadd64", _WEIGHTS, unpacked, _LINE)
        tile_call(b, "tdpbf16ps", products, activations, _WEIGHTS)
        tile_call(b, "tilestored64", products, self.place(block), _LINE)

    def place(self, block):
        """Where in the ring a block's products are."""
        b = self.b
        return bytes_behind(b, self.ring, b.mul(b.and_(block, index(RING - 1)), index(TILE_BYTES)))

    def block(self, block):
        b = self.b
        later = b.add(block, index(LATER))
        with b.if_then(b.icmp_signed("<", later, self.blocks)):
            self.multiply(later)
        if self.unpacks:
            ahead = b.add(later, index(AHEAD))
            with b.if_then(b.icmp_signed("<", ahead, self.blocks)):
                self.unpack(ahead)
        found = b.bitcast(self.place(block), ir.FloatType().as_pointer())
        return [[vector_at(b, found, index(r * LANES), FLOATS, 64)] for r in range(self.rows)]


def _at_most(builder, number, limit: int):
    return builder.select(builder.icmp_signed("<", number, index(limit)), number, index(limit))


@intrinsic(prefer_literal=True)
def matrix_tile(
    _context, rows, rest, unpacks, codes, scales, x, stride, sums, blocks, weights, ring, totals
):  # pragma: no cover
    """Add up to `rows` x 16 float32 products to `totals`, whose rows are `GROUPS * 16` numbers apart.

    `rows`, `rest` and `unpacks` are literal.

    `rest` 0: by tiles of 16 rows; 1: by tiles of as many rows as are left, at most `rows`, and what is written behind
    them means nothing. `codes` from `codes_at`, and `scales`, as `block_tile` takes them, of one group; `x` bfloat16,
    rows `stride` bytes apart; `sums` float32 `[blocks, 16]`; `weights` int32 `[blocks, 16, 16]`, which a call with
    `unpacks` 1 writes for those with 0; `ring` `RING` tiles of scratch.
    """
    num_rows, which, unpacks_too = rows.literal_value, rest.literal_value, unpacks.literal_value
    bits = 4 if codes == _CODES_OF[4] else 8

    def generate(_context, builder, _signature, arguments):
        codes, scales, x, stride, sums, blocks, weights, ring, totals = arguments[3:]
        scales = builder.bitcast(scales, ir.HalfType().as_pointer())
        emitter = _MatrixEmitter(
            builder, num_rows, bits, unpacks_too, which, (codes, scales, x, stride, sums, blocks, weights, ring)
        )
        emitter.start()
        places = [
            builder.bitcast(builder.gep(totals, [index(r * GROUPS * LANES)]), FLOATS.as_pointer())
            for r in range(emitter.rows)
        ]
        before = [[builder.load(place, align=64)] for place in places]
        for place, (total,) in zip(places, emitter.tile(before), strict=True):
            builder.store(total, place, align=64)

    kinds = (rows, rest, unpacks, codes, scales, x, stride, sums, blocks, weights, ring, totals)
    return types.void(*kinds), generate
