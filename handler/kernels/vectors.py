"""Vectors of 16 lanes, in LLVM instructions: types, loads and stores, arithmetic, shuffles."""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils

LANES = 16


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's `bfloat`, which llvmlite lacks."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


FLOATS = ir.VectorType(ir.FloatType(), LANES)
INTS = ir.VectorType(ir.IntType(32), LANES)
LONGS = ir.VectorType(ir.IntType(64), LANES)
BYTES = ir.VectorType(ir.IntType(8), LANES)
HALVES = ir.VectorType(ir.HalfType(), LANES)
_ROUND_AS_SET = 4
# Flags of a sum or product that LLVM must not reorder or contract. Where there are none, numba adds `FAST_MATH`.
IN_ORDER = ("nsz",)
# Cephes' polynomial for e^x, the highest power first.
EXP_FACTORS = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
# Two elements in each lane.
BFLOATS = ir.VectorType(_BFloat(), 2 * LANES)
SHORTS = ir.VectorType(ir.IntType(16), 2 * LANES)
_ROUNDED = ir.VectorType(_BFloat(), LANES)
_HALVED = ir.VectorType(ir.IntType(16), LANES)


def index(number: int):
    """A 64-bit constant."""
    return ir.Constant(ir.IntType(64), number)


def splat(builder, scalar, kind):
    """`scalar` in every lane of a vector of `kind`."""
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(INTS, [0] * LANES))


def vector_at(builder, pointer, offset, kind, align: int = 2):
    """Load a vector, `offset` elements after `pointer`."""
    return builder.load(builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer()), align=align)


def call(builder, name: str, result, arguments):
    """Call an LLVM intrinsic."""
    kinds = [argument.type for argument in arguments]
    return builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, kinds), name), arguments)


def multiply_add(builder, one, other, third):
    """`one * other + third`, rounded once."""
    return call(builder, "llvm.fma.v16f32", FLOATS, [one, other, third])


def folded(builder, count, start, step):
    """Loop `so_far = step(i, so_far)` for i below `count`, at least 1, from the vectors `start`; returns the last."""
    before = builder.block
    head, after = builder.append_basic_block("fold"), builder.append_basic_block("folded")
    builder.branch(head)
    builder.position_at_end(head)
    i, so_far = builder.phi(ir.IntType(64)), [builder.phi(FLOATS) for _ in start]
    i.add_incoming(index(0), before)
    following, next_i = step(i, so_far), builder.add(i, index(1))
    i.add_incoming(next_i, builder.block)
    for one, first, new in zip(so_far, start, following, strict=True):
        one.add_incoming(first, before)
        one.add_incoming(new, builder.block)
    builder.cbranch(builder.icmp_signed("<", next_i, count), head, after)
    builder.position_at_end(after)
    return following


def over_vectors(builder, numbers, count, start, step):
    """Loop `so_far = step(i, place, so_far)` over `count` consecutive vectors, at least 1; returns the last."""

    def one(i, so_far):
        place = builder.gep(numbers, [builder.mul(i, index(LANES))])
        return [step(i, builder.bitcast(place, FLOATS.as_pointer()), so_far[0])]

    return folded(builder, count, [start], one)[0]


def fetch(builder, address, to_write: bool = False, level: int = 1) -> None:
    """Prefetch the cache line at an address, into the cache of a level and those behind it.

    Any address is allowed, also past the end of the memory.
    """
    numbers = [ir.Constant(ir.IntType(32), number) for number in (int(to_write), 4 - level, 1)]
    call(builder, "llvm.prefetch.p0", ir.VoidType(), [address, *numbers])


def store_rounded(builder, numbers, place) -> None:
    """Store a vector of float32, rounded to bfloat16. Needs AVX-512 with bfloat16."""
    rounded = call(builder, "llvm.x86.avx512bf16.cvtneps2bf16.512", _ROUNDED, [numbers])
    builder.store(rounded, builder.bitcast(place, _ROUNDED.as_pointer()), align=2)


def load_rounded(builder, place):
    """Load 16 bfloat16 numbers as float32."""
    found = builder.load(builder.bitcast(place, _HALVED.as_pointer()), align=2)
    return builder.bitcast(builder.shl(builder.zext(found, INTS), ir.Constant(INTS, [16] * LANES)), FLOATS)


def call_max(builder, one, other):
    """The larger of each lane; of a number and NaN, the number."""
    return call(builder, "llvm.maxnum.v16f32", FLOATS, [one, other])


def exp_of_negatives(builder, x):
    """e^x of each lane for x <= 0, by the polynomial of `primitives.exp_of_negative`."""
    least = ir.Constant(FLOATS, [-87.0] * LANES)
    # The comparison is false for NaN, so NaN stays.
    return exp_of_finite(builder, builder.select(builder.fcmp_ordered("<", x, least), least, x))


def exp_of_finite(builder, x):
    """The same for finite x. -inf gives NaN; NaN stays."""

    def floats(number: float):
        return ir.Constant(FLOATS, [number] * LANES)

    whole = call(
        builder, "llvm.floor.v16f32", FLOATS, [multiply_add(builder, x, floats(1.4426950408889634), floats(0.5))]
    )
    rest = multiply_add(builder, whole, floats(-0.693359375), x)
    rest = multiply_add(builder, whole, floats(2.12194440e-4), rest)
    y = floats(EXP_FACTORS[0])
    for factor in EXP_FACTORS[1:]:
        y = multiply_add(builder, y, rest, floats(factor))
    y = builder.fadd(multiply_add(builder, builder.fmul(y, rest), rest, rest), floats(1.0))
    arguments = [y, whole, floats(0.0), ir.Constant(ir.IntType(16), -1), ir.Constant(ir.IntType(32), _ROUND_AS_SET)]
    return call(builder, "llvm.x86.avx512.mask.scalef.ps.512", FLOATS, arguments)


def reciprocal(builder, x):
    """1 / x of each lane for x from 1 to 2, within float32's last bit or two, in a sixth of a division's time."""
    guess = call(builder, "llvm.x86.avx512.rcp14.ps.512", FLOATS, [x, x, ir.Constant(ir.IntType(16), -1)])
    rest = multiply_add(builder, builder.fneg(x), guess, ir.Constant(FLOATS, [1.0] * LANES))
    return multiply_add(builder, guess, rest, guess)


def reduced(builder, operation: str, vector):
    """The largest lane (`fmax`) or the sum of all lanes (`fadd`), by folding halves."""
    half = LANES // 2
    while half:
        mask = ir.Constant(INTS, [lane + half if lane < half else lane for lane in range(LANES)])
        other = builder.shuffle_vector(vector, vector, mask)
        vector = call_max(builder, vector, other) if operation == "fmax" else builder.fadd(vector, other)
        half //= 2
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))


def interleaved_halves(builder, one, other):
    """Interleave two vectors of 32: the first four of each eight into one vector, the last four into another.

    Each is one unpack instruction of the processor.
    """
    out = []
    for half in range(2):
        lanes = [8 * eight + 4 * half + i for eight in range(4) for i in range(4)]
        mask = [lane + 2 * LANES * which for lane in lanes for which in range(2)]
        out.append(builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(ir.IntType(32), 2 * LANES), mask)))
    return out


def transposed(builder, rows):
    """Transpose 16 vectors of 16: swap blocks of 8, then of 4, 2 and 1."""
    rows, size = list(rows), LANES // 2
    while size:
        for i in range(LANES):
            if not i & size:
                one, other = rows[i], rows[i + size]
                upper = [LANES + lane - size if lane & size else lane for lane in range(LANES)]
                lower = [LANES + lane if lane & size else lane + size for lane in range(LANES)]
                rows[i] = builder.shuffle_vector(one, other, ir.Constant(INTS, upper))
                rows[i + size] = builder.shuffle_vector(one, other, ir.Constant(INTS, lower))
        size //= 2
    return rows
