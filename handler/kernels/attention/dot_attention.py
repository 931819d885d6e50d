"""The kernel of `row_attention` with AVX-512's bfloat16 dot products: a row alone, or consecutive rows of one sequence.

Rows of a prompt share the keys and values that they read. A row has the same bits both ways: blocks of keys are counted
from the sequence's first token, and a key that a row does not see adds zero.
"""

from __future__ import annotations

import functools

import numpy as np

from handler.kernels.attention.attention_rows import (
    CACHED_KEYS,
    CACHED_VALUES,
    COSINES,
    FLAT_INDEX,
    HEADS,
    HEADS_STRIDE,
    MANY_ROWS,
    OUT,
    POSITIONS,
    SCALE,
    SINES,
    WINDOW,
    embed,
    rows_together,
    store_rows,
)
from handler.kernels.attention.attention_tile import (
    KEY_BLOCK,
    KEYS,
    STATE,
    add_values,
    clear_state,
    score_keys,
    weigh_keys,
    write_state,
)
from handler.kernels.attention.query_block_tile import (
    SCORED,
    add_paired_values,
    pair_values,
    score_queries,
    turn_keys,
)
from handler.kernels.compiler import compile_kernel
from handler.kernels.primitives import (
    BITS_BFLOAT16,
    BITS_FLOAT32,
    bytes_at,
    elements,
    float_argument,
    inlined,
    integers,
    prefetch,
    shifted,
    take_ticket,
    team_size,
    thread_number,
)
from handler.kernels.team import NUM_ROWS, SCRATCH, SCRATCH_STRIDE, TICKET

# Elements of a cache line.
_LINE = 32
# Sums kept in vector registers, of which there are 32 with 16 lanes each.
_MAX_SUMS = 384
# Queries of a block: heads of consecutive rows that share keys.
_QUERIES = 48
# Blocks that each thread gets at least, if there are enough rows.
_BLOCKS_PER_THREAD = 4


def dot_scratch(group: int, head_dim: int) -> int:
    """Float32 elements of scratch that a thread needs."""
    return _places(group, head_dim)[-1]


def _places(group: int, head_dim: int) -> tuple[int, int, int, int, int, int, int]:
    """Offsets in a thread's scratch: states, scores, weights, queries, keys, values; and its end."""
    most = _rounded(max(_QUERIES, group), SCORED * _queries_together(head_dim))
    sizes = (most * (STATE + head_dim), most * KEY_BLOCK, most * KEY_BLOCK // 2, most * head_dim // 2)
    scores, weights, queries, keys = (sum(sizes[: i + 1]) for i in range(4))
    values = keys + KEYS * head_dim // 2
    return 0, scores, weights, queries, keys, values, values + KEY_BLOCK * head_dim // 2


def _rounded(number: int, step: int) -> int:
    return -(-number // step) * step


def _queries_together(head_dim: int) -> int:
    """Queries of a block whose values are summed together."""
    return max(1, _MAX_SUMS // head_dim)


def _heads_together(group: int, head_dim: int) -> int:
    """Heads of a row whose values are summed together."""
    return max(n for n in range(1, group + 1) if group % n == 0 and (n == 1 or n * head_dim <= _MAX_SUMS))


@inlined
def _score_row(scores, query, keys, cached, count, token, head_dim, group, scale, near):  # pragma: no cover
    """Scores of one row's heads and `count` keys, a multiple of 16. `near` elements of each key are prefetched."""
    for j in range(0, count, KEYS):
        for ahead in range(KEYS):
            for d in range(0, near, _LINE):
                prefetch(keys, (j + KEYS + ahead) * token + d)
                prefetch(cached, (j + ahead) * token + d)
        for g in range(group):
            there, out = shifted(keys, j * token), shifted(scores, g * KEY_BLOCK + j)
            score_keys(head_dim, shifted(query, g * head_dim), there, token, scale, out)


@inlined
def _score_rows(scores, queries, num_queries, keys, turned, count, token, head_dim, scale):  # pragma: no cover
    """Scores of `num_queries` queries and `count` keys, a multiple of 16."""
    padded = (num_queries + SCORED - 1) // SCORED * SCORED
    for j in range(0, count, KEYS):
        turn_keys(head_dim, shifted(keys, j * token), token, turned)
        score_queries(head_dim, queries, padded, turned, scale, shifted(scores, j))


@functools.cache
def compile_dot_attention(num_kv_heads: int, group: int, head_dim: int) -> int:
    """The address of the kernel; it takes the arguments of `row_attention`'s."""
    token, state, half = num_kv_heads * head_dim, STATE + head_dim, head_dim // 2
    most, heads_together, together = (
        max(1, _QUERIES // group),
        _heads_together(group, head_dim),
        _queries_together(head_dim),
    )
    _, scores_place, weights_place, queries_place, keys_place, values_place, _ = _places(group, head_dim)

    def kernel(arguments):  # pragma: no cover
        num_rows, window, scale = arguments[NUM_ROWS], arguments[WINDOW], float_argument(arguments, SCALE)
        heads, out = elements(arguments[HEADS], BITS_BFLOAT16), elements(arguments[OUT], BITS_BFLOAT16)
        cosines, sines = elements(arguments[COSINES], BITS_BFLOAT16), elements(arguments[SINES], BITS_BFLOAT16)
        all_keys, all_values = arguments[CACHED_KEYS], arguments[CACHED_VALUES]
        flat_index, positions = integers(arguments[FLAT_INDEX]), integers(arguments[POSITIONS])
        address = arguments[SCRATCH] + thread_number(arguments) * arguments[SCRATCH_STRIDE]
        states, scores = elements(address, BITS_FLOAT32), elements(address + scores_place * 4, BITS_FLOAT32)
        weights = elements(address + weights_place * 4, BITS_BFLOAT16)
        queries = elements(address + queries_place * 4, BITS_BFLOAT16)
        turned = bytes_at(address + keys_place * 4)
        paired = elements(address + values_place * 4, BITS_BFLOAT16)
        store_rows(arguments, num_kv_heads, group, head_dim, BITS_BFLOAT16)

        limit = max(1, min(most, num_rows * num_kv_heads // (_BLOCKS_PER_THREAD * team_size(arguments))))
        turn, row, before = take_ticket(arguments, TICKET), 0, 0
        while row < num_rows:
            rows = rows_together(flat_index, positions, row, num_rows, limit)
            # With many lone rows, a thread takes all heads of a row, so that its keys are one stream; else one head.
            at_once = num_kv_heads if rows == 1 and num_rows >= MANY_ROWS else 1
            while turn < before + num_kv_heads // at_once:
                first_head = (turn - before) * at_once
                for h in range(first_head, first_head + at_once):
                    num_queries = rows * group
                    for q in range(num_queries):
                        at = (row + q // group) * arguments[HEADS_STRIDE] + (h * group + q % group) * head_dim
                        angles = (row + q // group) * head_dim
                        embed(heads, at, cosines, sines, angles, queries, q * head_dim, np.float32(1), half)
                        clear_state(shifted(states, q * state), head_dim)
                    last = positions[row] + rows
                    first = max(0, positions[row] + 1 - window) if window > 0 else 0
                    base = (flat_index[row] - positions[row]) * token + h * head_dim
                    begin = first - first % KEYS
                    while begin < last:
                        end = min(begin - begin % KEY_BLOCK + KEY_BLOCK, last)
                        count = (end - begin + KEYS - 1) // KEYS * KEYS
                        keys = elements(all_keys + (base + begin * token) * 2, BITS_BFLOAT16)
                        values = elements(all_values + (base + begin * token) * 2, BITS_BFLOAT16)
                        if rows == 1:
                            near = at_once * head_dim if h == first_head else 0
                            _score_row(scores, queries, keys, values, count, token, head_dim, group, scale, near)
                        else:
                            _score_rows(scores, queries, num_queries, keys, turned, count, token, head_dim, scale)
                        for q in range(num_queries):
                            own = positions[row] + q // group + 1
                            since = max(0, own - window) if window > 0 else 0
                            low, high = min(max(since - begin, 0), count), min(max(own - begin, 0), count)
                            place, to = shifted(scores, q * KEY_BLOCK), shifted(weights, q * KEY_BLOCK)
                            weigh_keys(place, low, high, count, to, shifted(states, q * state), head_dim)
                        num_keys = end - begin
                        if rows == 1:
                            for g in range(0, group, heads_together):
                                given, to = shifted(weights, g * KEY_BLOCK), shifted(states, g * state)
                                add_values(head_dim, heads_together, given, values, token, num_keys, to)
                        else:
                            pair_values(head_dim, values, token, num_keys, paired)
                            for q in range(0, num_queries, together):
                                given, to = shifted(weights, q * KEY_BLOCK), shifted(states, q * state)
                                add_paired_values(head_dim, together, given, paired, num_keys, to)
                        begin = end if end == last else begin - begin % KEY_BLOCK + KEY_BLOCK
                    for q in range(num_queries):
                        at = (((row + q // group) * num_kv_heads + h) * group + q % group) * head_dim
                        write_state(head_dim, shifted(states, q * state), shifted(out, at))
                turn = take_ticket(arguments, TICKET)
            before += num_kv_heads // at_once
            row += rows

    return compile_kernel(kernel)
