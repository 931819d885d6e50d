"""The kernel of `row_attention` over keys and values in 8 bits: int8 codes, and a float32 scale of each token and head.

Scales are `[num_slots, num_kv_heads, max_len]`, so those of consecutive keys are one vector. Scores and weights are
multiplied by them; keys and values are never rounded a second time.
"""

from __future__ import annotations

import numpy as np

from handler.kernels.attention.attention_rows import (
    BARRIER,
    CACHED_KEYS,
    CACHED_VALUES,
    COSINES,
    FLAT_INDEX,
    HEADS,
    HEADS_STRIDE,
    KEY_SCALES,
    MANY_ROWS,
    MAX_LEN,
    OUT,
    POSITIONS,
    SCALE,
    SINES,
    VALUE_SCALES,
    VALUES,
    VALUES_STRIDE,
    WINDOW,
    embed,
    softmax,
)
from handler.kernels.attention.attention_tile import KEYS
from handler.kernels.attention.byte_attention_tile import (
    LARGEST_QUERY,
    LOW_BITS,
    codes_at,
    score_codes,
    weigh_codes,
)
from handler.kernels.attention.softmax_tile import softmax_keys
from handler.kernels.barrier import wait_for_all
from handler.kernels.compiler import compile_kernel, multiplies_bytes
from handler.kernels.primitives import (
    BITS_FLOAT32,
    bytes_at,
    called,
    elements,
    float_argument,
    inlined,
    integers,
    load,
    prefetch,
    share_of,
    shifted,
    store,
    take_ticket,
    team_size,
    thread_number,
)
from handler.kernels.team import NUM_ROWS, SCRATCH, SCRATCH_STRIDE, TICKET

LARGEST_CODE = 127
# Bytes of a cache line.
_LINE = 64
# Sums kept in vector registers, of which there are 32 with 16 lanes each.
_MAX_SUMS = 384
_MULTIPLE = 32


def byte_scratch(group: int, head_dim: int, max_len: int) -> int:
    """Float32 elements of scratch that a thread needs."""
    return _scores_place(group, head_dim) + group * (max_len + KEYS)


def _scores_place(group: int, head_dim: int) -> int:
    """`group` queries, as many sums, two numbers for each query, then one row of scores for each."""
    return 2 * group * head_dim + 2 * group


@inlined
def _largest(numbers, at, count):  # pragma: no cover
    """The largest magnitude; NaN if a number is not finite."""
    largest, damage = np.float32(0), np.float32(0)
    for d in range(count):
        number = load(numbers, at + d)
        largest = max(largest, abs(number))
        # Zero, or NaN. Of `number - number` the compiler would make nothing.
        damage += number * np.float32(0)
    return largest + damage


@inlined
def _store_head(numbers, at, codes, to, scales, place, head_dim):  # pragma: no cover
    """Write a head as codes and their scale, NaN if a number is not finite."""
    largest = _largest(numbers, at, head_dim)
    store(scales, place, largest / np.float32(LARGEST_CODE))
    inverse = np.float32(LARGEST_CODE) / largest if largest > np.float32(0) else np.float32(0)
    for d in range(head_dim):
        codes[to + d] = np.int8(np.floor(load(numbers, at + d) * inverse + np.float32(0.5)))


@called
def _store_rows(arguments, scratch, sums, num_kv_heads, group, head_dim, bits):  # pragma: no cover
    """Store each row's embedded keys and its values in the cache; returns when all threads have done so."""
    heads, values = elements(arguments[HEADS], bits), elements(arguments[VALUES], bits)
    cosines, sines = elements(arguments[COSINES], bits), elements(arguments[SINES], bits)
    keys, cached = codes_at(arguments[CACHED_KEYS]), codes_at(arguments[CACHED_VALUES])
    key_scales = elements(arguments[KEY_SCALES], BITS_FLOAT32)
    value_scales = elements(arguments[VALUE_SCALES], BITS_FLOAT32)
    flat_index, positions = integers(arguments[FLAT_INDEX]), integers(arguments[POSITIONS])
    first, end = share_of(arguments, arguments[NUM_ROWS])
    for row in range(first, end):
        start = (flat_index[row] - positions[row]) * num_kv_heads + positions[row]
        for h in range(num_kv_heads):
            at = row * arguments[HEADS_STRIDE] + (num_kv_heads * group + h) * head_dim
            to, place = (flat_index[row] * num_kv_heads + h) * head_dim, start + h * arguments[MAX_LEN]
            embed(heads, at, cosines, sines, row * head_dim, scratch, sums, np.float32(1), head_dim // 2)
            _store_head(scratch, sums, keys, to, key_scales, place, head_dim)
            at = row * arguments[VALUES_STRIDE] + h * head_dim
            _store_head(values, at, cached, to, value_scales, place, head_dim)
    # A prompt's rows attend to keys that other threads have just written.
    wait_for_all(arguments[BARRIER], team_size(arguments))


@inlined
def _split_query(numbers, at, parts, to, factors, corrections, place, head_dim):  # pragma: no cover
    """Write a query as higher and lower parts, its unit and its correction as `score_codes` takes them."""
    largest, total = _largest(numbers, at, head_dim), np.int32(0)
    inverse = np.float32(LARGEST_QUERY) / largest if largest > np.float32(0) else np.float32(0)
    for d in range(head_dim):
        number = np.int32(np.floor(load(numbers, at + d) * inverse + np.float32(0.5)))
        high = (number + np.int32(1 << (LOW_BITS - 1))) >> np.int32(LOW_BITS)
        parts[to + d], parts[to + head_dim + d] = np.int8(high), np.int8(number - (high << np.int32(LOW_BITS)))
        total += number
    store(factors, place, largest / np.float32(LARGEST_QUERY))
    corrections[place + 1] = np.int32(total * np.int32(LARGEST_CODE + 1))


@inlined
def _scale(numbers, at, scales, place, count):  # pragma: no cover
    for i in range(count):
        store(numbers, at + i, load(numbers, at + i) * load(scales, place + i))


@inlined
def _attend_by_16(
    scratch, scratch_address, keys, cached, key_scales, value_scales, base, place, skipped, num_keys,
    token, head_dim, group, together, near,
):  # pragma: no cover  # fmt: skip
    """Attend with the queries where sums go; these replace them.

    `base` and `place` are those of the first key and scale, `skipped` keys before the first that is seen. The last
    block of 16 may read past the sequence's last key, but within the slot. `near` bytes of each key are prefetched.
    """
    sums, parts, corrections = group * head_dim, codes_at(scratch_address), bytes_at(scratch_address)
    units, scores = 2 * sums, 2 * sums + 2 * group
    for g in range(group):
        _split_query(
            scratch, sums + g * head_dim, parts, 2 * g * head_dim, scratch, corrections, units + 2 * g, head_dim
        )
    padded = (skipped + num_keys + KEYS - 1) // KEYS * KEYS
    for j in range(0, padded, KEYS):
        for ahead in range(KEYS):
            for d in range(0, near, _LINE):
                prefetch(keys, base + (j + KEYS + ahead) * token + d)
                prefetch(cached, base + (j + ahead) * token + d)
        for g in range(group):
            score_codes(
                head_dim, shifted(parts, 2 * g * head_dim), shifted(keys, base + j * token), token,
                load(scratch, units + 2 * g), corrections[units + 2 * g + 1],
                shifted(key_scales, place + j), shifted(scratch, scores + g * padded + j),
            )  # fmt: skip
    for g in range(group):
        softmax_keys(shifted(scratch, scores + g * padded), skipped, skipped + num_keys, padded)
        _scale(scratch, scores + g * padded + skipped, value_scales, place + skipped, num_keys)
    first = shifted(cached, base + skipped * token)
    for g in range(0, group, together):
        weights, to = shifted(scratch, scores + g * padded + skipped), shifted(scratch, (group + g) * head_dim)
        weigh_codes(head_dim, together, weights, padded, first, token, num_keys, to)


@inlined
def _attend_one_by_one(
    scratch, query, sums, scores, keys, cached, key_scales, value_scales, base, place, num_keys, token, head_dim
):  # pragma: no cover
    """For any processor and head: the query at `query` of `scratch`; `base`, `place` are those of the first key."""
    for j in range(num_keys):
        found = np.float32(0)
        for d in range(head_dim):
            found += load(scratch, query + d) * np.float32(keys[base + j * token + d])
        store(scratch, scores + j, found * load(key_scales, place + j))
    softmax(scratch, scores, num_keys)
    _scale(scratch, scores, value_scales, place, num_keys)
    for d in range(head_dim):
        store(scratch, sums + d, np.float32(0))
    for j in range(num_keys):
        weight = load(scratch, scores + j)
        for d in range(head_dim):
            store(scratch, sums + d, load(scratch, sums + d) + weight * np.float32(cached[base + j * token + d]))


def compile_byte_attention(num_kv_heads: int, group: int, head_dim: int, bits: int) -> int:
    """The address of the kernel; it takes the arguments of `row_attention`'s. `bits` are those of rows and results."""
    # The kernel captures only integers, for the cache key of `compile_kernel`.
    token, half, by_16 = num_kv_heads * head_dim, head_dim // 2, int(head_dim % _MULTIPLE == 0 and multiplies_bytes())
    together = group if group * head_dim <= _MAX_SUMS else 1
    sums, scores = group * head_dim, _scores_place(group, head_dim)

    def kernel(arguments):  # pragma: no cover
        num_rows, stride, window = arguments[NUM_ROWS], arguments[HEADS_STRIDE], arguments[WINDOW]
        heads, out = elements(arguments[HEADS], bits), elements(arguments[OUT], bits)
        cosines, sines = elements(arguments[COSINES], bits), elements(arguments[SINES], bits)
        keys, cached = codes_at(arguments[CACHED_KEYS]), codes_at(arguments[CACHED_VALUES])
        key_scales = elements(arguments[KEY_SCALES], BITS_FLOAT32)
        value_scales = elements(arguments[VALUE_SCALES], BITS_FLOAT32)
        flat_index, positions = integers(arguments[FLAT_INDEX]), integers(arguments[POSITIONS])
        scratch_address = arguments[SCRATCH] + thread_number(arguments) * arguments[SCRATCH_STRIDE]
        scratch, scale = elements(scratch_address, BITS_FLOAT32), float_argument(arguments, SCALE)
        _store_rows(arguments, scratch, sums, num_kv_heads, group, head_dim, bits)

        # With many rows, a thread takes all heads of a row, so that its keys are one stream; else one head.
        at_once = num_kv_heads if num_rows >= MANY_ROWS else 1
        turn = take_ticket(arguments, TICKET) * at_once
        while turn < num_rows * num_kv_heads:
            for item in range(turn, turn + at_once):
                row, h = item // num_kv_heads, item % num_kv_heads
                slot = flat_index[row] - positions[row]
                first = max(0, positions[row] + 1 - window) if window > 0 else 0
                num_keys, skipped = positions[row] + 1 - first, first % KEYS if by_16 else 0
                base = (slot + first - skipped) * token + h * head_dim
                place = slot * num_kv_heads + h * arguments[MAX_LEN] + first - skipped
                queries = sums if by_16 else 0
                for g in range(0, group * head_dim, head_dim):
                    at = row * stride + h * group * head_dim + g
                    embed(heads, at, cosines, sines, row * head_dim, scratch, queries + g, scale, half)
                if by_16:
                    near = at_once * head_dim if item == turn else 0
                    _attend_by_16(
                        scratch, scratch_address, keys, cached, key_scales, value_scales, base, place, skipped,
                        num_keys, token, head_dim, group, together, near,
                    )  # fmt: skip
                else:
                    for g in range(0, group * head_dim, head_dim):
                        _attend_one_by_one(
                            scratch, g, sums + g, scores, keys, cached, key_scales, value_scales, base, place,
                            num_keys, token, head_dim,
                        )  # fmt: skip
                for d in range(group * head_dim):
                    store(out, item * group * head_dim + d, load(scratch, sums + d))
            turn = take_ticket(arguments, TICKET) * at_once

    return compile_kernel(kernel)
