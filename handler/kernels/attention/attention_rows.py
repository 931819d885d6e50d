"""What the attention kernels share: arguments, rotary embedding, storing new keys and values in the cache."""

from __future__ import annotations

import numpy as np

from handler.kernels.barrier import wait_for_all
from handler.kernels.primitives import (
    called,
    elements,
    exp_of_negative,
    inlined,
    integers,
    load,
    share_of,
    store,
    team_size,
)
from handler.kernels.team import NUM_COMMON, NUM_ROWS

# Indices of the arguments.
HEADS, HEADS_STRIDE, VALUES, VALUES_STRIDE, OUT = range(NUM_COMMON, NUM_COMMON + 5)
COSINES, SINES, FLAT_INDEX, POSITIONS = range(NUM_COMMON + 5, NUM_COMMON + 9)
CACHED_KEYS, CACHED_VALUES, WINDOW, SCALE, BARRIER = range(NUM_COMMON + 9, NUM_COMMON + 14)
# Of a cache in 8 bits: scales, and a slot's tokens.
KEY_SCALES, VALUE_SCALES, MAX_LEN = range(NUM_COMMON + 14, NUM_COMMON + 17)
NUM_ARGUMENTS = NUM_COMMON + 17


# From this many rows on, one thread computes all heads of a row.
MANY_ROWS = 8


@inlined
def embed(source, at, cosines, sines, angles, target, to, scale, half):  # pragma: no cover
    """Rotary embedding of one head, times `scale`."""
    for d in range(half):
        one, other = load(source, at + d), load(source, at + half + d)
        turned = one * load(cosines, angles + d) - other * load(sines, angles + d)
        store(target, to + d, turned * scale)
        turned = other * load(cosines, angles + half + d) + one * load(sines, angles + half + d)
        store(target, to + half + d, turned * scale)


@inlined
def store_rows(arguments, num_kv_heads, group, head_dim, bits):  # pragma: no cover
    """Store each row's embedded keys and its values in the cache; returns when all threads have done so."""
    num_rows, token = arguments[NUM_ROWS], num_kv_heads * head_dim
    heads, values = elements(arguments[HEADS], bits), elements(arguments[VALUES], bits)
    cosines, sines = elements(arguments[COSINES], bits), elements(arguments[SINES], bits)
    keys, cached = elements(arguments[CACHED_KEYS], bits), elements(arguments[CACHED_VALUES], bits)
    flat_index = integers(arguments[FLAT_INDEX])
    first, end = share_of(arguments, num_rows)
    for row in range(first, end):
        target = flat_index[row] * token
        for h in range(num_kv_heads):
            at = row * arguments[HEADS_STRIDE] + (num_kv_heads * group + h) * head_dim
            to = target + h * head_dim
            embed(heads, at, cosines, sines, row * head_dim, keys, to, np.float32(1), head_dim // 2)
        for d in range(token):
            store(cached, target + d, load(values, row * arguments[VALUES_STRIDE] + d))
    # A prompt's rows attend to keys that other threads have just written.
    wait_for_all(arguments[BARRIER], team_size(arguments))


@called
def rows_together(flat_index, positions, row, num_rows, most):  # pragma: no cover
    """Number of rows from `row` on that are consecutive tokens of one sequence, at most `most`."""
    rows = 1
    while (
        rows < most
        and row + rows < num_rows
        and flat_index[row + rows] == flat_index[row] + rows
        and positions[row + rows] == positions[row] + rows
    ):
        rows += 1
    return rows


@inlined
def softmax(numbers, at, count):  # pragma: no cover
    """Replace `count` scores of `numbers`, from `at` on, by their weights."""
    largest, total = load(numbers, at), np.float32(0)
    for j in range(count):
        largest = max(largest, load(numbers, at + j))
    for j in range(count):
        weight = exp_of_negative(load(numbers, at + j) - largest)
        store(numbers, at + j, weight)
        total += weight
    share = np.float32(1) / total
    for j in range(count):
        store(numbers, at + j, load(numbers, at + j) * share)
