"""Inner loops of attention over keys and values in 8 bits, with AVX-512 and its products of bytes (VNNI).

Codes are whole numbers from -127 to 127. A query comes as whole numbers of 15 bits, in a higher and a lower part of a
byte each, so its products with codes are exact.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from handler.kernels.attention.attention_tile import KEYS, sum_each
from handler.kernels.vectors import BYTES, FLOATS, INTS, LANES, call, folded, index, multiply_add, splat, vector_at

# The lower part of a query's number has this many bits.
LOW_BITS = 7
# The largest number of a query.
LARGEST_QUERY = 127 << LOW_BITS

_LINE = 64
_CODES = ir.VectorType(ir.IntType(8), _LINE)
_HALF_LINE = ir.VectorType(ir.IntType(8), _LINE // 2)


@intrinsic
def codes_at(_context, address):  # pragma: no cover
    """The address as a pointer to signed bytes."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.int8)(types.int64), generate


@intrinsic(prefer_literal=True)
def score_codes(_context, head_dim, query, keys, stride, factor, correction, key_scales, out):  # pragma: no cover
    """Scores of one query and 16 keys: float32 `[16]` to `out`.

    `query` int8 `[2, head_dim]`, higher then lower parts, whose unit is `factor`; `correction` 128 times its sum;
    `keys` the first of 16, `stride` codes apart, with `key_scales` float32 `[16]`. `head_dim`, a multiple of 32, is
    literal.
    """
    width = head_dim.literal_value

    def generate(_context, builder, _signature, arguments):
        _, query, keys, stride, factor, correction, key_scales, out = arguments
        starts = range(0, width, _LINE)
        high = [_line_at(builder, query, index(d), width - d) for d in starts]
        low = [_line_at(builder, query, index(width + d), width - d) for d in starts]
        sums = [
            _product(builder, [_unsigned(builder, keys, stride, j, d, width - d) for d in starts], high, low)
            for j in range(KEYS)
        ]
        products = builder.sub(sum_each(builder, sums, "add"), splat(builder, correction, INTS))
        scores = builder.fmul(builder.sitofp(products, FLOATS), splat(builder, factor, FLOATS))
        scores = builder.fmul(scores, vector_at(builder, key_scales, index(0), FLOATS, 4))
        builder.store(scores, builder.bitcast(out, FLOATS.as_pointer()), align=4)

    kinds = (head_dim, query, keys, stride, types.float32, types.int32, key_scales, out)
    return types.void(*kinds), generate


def _line_at(builder, pointer, offset, missing: int):
    """64 codes; zeros after the first 32 if the head has no more."""
    if missing >= _LINE:
        return vector_at(builder, pointer, offset, _CODES, 1)
    half = vector_at(builder, pointer, offset, _HALF_LINE, 1)
    picked = ir.Constant(ir.VectorType(ir.IntType(32), _LINE), list(range(_LINE)))
    return builder.shuffle_vector(half, ir.Constant(_HALF_LINE, [0] * (_LINE // 2)), picked)


def _unsigned(builder, keys, stride, j: int, d: int, missing: int):
    """A part of key `j`, 128 added to each code: one operand of the product is unsigned."""
    found = _line_at(builder, keys, builder.add(builder.mul(stride, index(j)), index(d)), missing)
    return builder.xor(found, ir.Constant(_CODES, [-128] * _LINE))


def _product(builder, key, high, low):
    """Sums of products by lanes: of the higher parts, shifted, and of the lower ones."""
    total = ir.Constant(INTS, [0] * LANES)
    for codes, part in zip(key, high, strict=True):
        total = _add_products(builder, total, codes, part)
    total = builder.shl(total, ir.Constant(INTS, [LOW_BITS] * LANES))
    for codes, part in zip(key, low, strict=True):
        total = _add_products(builder, total, codes, part)
    return total


def _add_products(builder, total, unsigned, signed):
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", INTS, [total, unsigned, signed])


@intrinsic(prefer_literal=True)
def weigh_codes(_context, head_dim, group, weights, weights_stride, values, stride, num_keys, out):  # pragma: no cover
    """Weighted sums of codes: float32 `[group, head_dim]` to `out`.

    `weights` float32 `[group, num_keys]`, rows `weights_stride` apart, times the values' scales; `values` codes, keys
    `stride` apart. `head_dim`, a multiple of 16, and `group` are literal.
    """
    width, heads = head_dim.literal_value, group.literal_value
    per_head = width // LANES

    def generate(_context, builder, _signature, arguments):
        weights, weights_stride, values, stride, num_keys, out = arguments[2:]

        def add_key(j, totals):
            start, following = builder.mul(j, stride), []
            pieces = [
                builder.sitofp(
                    builder.sext(vector_at(builder, values, builder.add(start, index(d)), BYTES, 1), INTS), FLOATS
                )
                for d in range(0, width, LANES)
            ]
            for g in range(heads):
                place = builder.add(builder.mul(weights_stride, index(g)), j)
                weight = splat(builder, builder.load(builder.gep(weights, [place])), FLOATS)
                for piece, old in zip(pieces, totals[g * per_head : (g + 1) * per_head], strict=True):
                    following.append(multiply_add(builder, weight, piece, old))
            return following

        zeros = [ir.Constant(FLOATS, [0.0] * LANES)] * (heads * per_head)
        for i, total in enumerate(folded(builder, num_keys, zeros, add_key)):
            builder.store(total, builder.bitcast(builder.gep(out, [index(i * LANES)]), FLOATS.as_pointer()), align=4)

    kinds = (head_dim, group, weights, weights_stride, values, stride, num_keys, out)
    return types.void(*kinds), generate
