"""Rotary embedding, KV cache and attention of one layer in one call, row by row.

Each new token is a row, in decode and in prefill; its result depends on its sequence alone, to the last bit. The kernel
of this file reads numbers as float32 and rounds once, at the end; `dot_attention` and `matrix_attention` round weights.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    NUM_ARGUMENTS,
    OUT,
    POSITIONS,
    SCALE,
    SINES,
    WINDOW,
    embed,
    softmax,
    store_rows,
)
from handler.kernels.attention.byte_attention import byte_scratch, compile_byte_attention
from handler.kernels.attention.dot_attention import compile_dot_attention, dot_scratch
from handler.kernels.attention.matrix_attention import (
    attends_by_matrices,
    attention_scratch,
    attention_shapes,
    compile_matrix_attention,
)
from handler.kernels.barrier import shared_barrier
from handler.kernels.compiler import compile_kernel, multiplies_bfloat16
from handler.kernels.primitives import (
    BITS,
    BITS_FLOAT32,
    elements,
    float_argument,
    inlined,
    integers,
    load,
    prefetch,
    store,
    take_ticket,
    thread_number,
)
from handler.kernels.program import Step, nothing
from handler.kernels.team import (
    NUM_ROWS,
    SCRATCH,
    SCRATCH_STRIDE,
    TICKET,
    Call,
    float_bits,
    scratch,
    team_functions,
)

# Bytes of a cache line, and how many keys ahead are prefetched.
_LINE = 64
_AHEAD = 16


@inlined
def _score(scratch, scores, keys, cached, base, num_keys, token, head_dim, group, line):  # pragma: no cover
    for j in range(num_keys):
        for d in range(0, head_dim, line):
            prefetch(keys, base + (j + _AHEAD) * token + d)
            prefetch(cached, base + j * token + d)
        for g in range(group):
            found = np.float32(0)
            for d in range(head_dim):
                found += load(scratch, g * head_dim + d) * load(keys, base + j * token + d)
            store(scratch, scores + g * num_keys + j, found)


@inlined
def _add_four(scratch, to, weights, cached, at, token, head_dim):  # pragma: no cover
    """Add four keys at once: sums are read and written a quarter as often."""
    one, two = load(scratch, weights), load(scratch, weights + 1)
    three, four = load(scratch, weights + 2), load(scratch, weights + 3)
    for d in range(head_dim):
        total = load(scratch, to + d)
        total += one * load(cached, at + d)
        total += two * load(cached, at + token + d)
        total += three * load(cached, at + 2 * token + d)
        total += four * load(cached, at + 3 * token + d)
        store(scratch, to + d, total)


@inlined
def _add_one(scratch, to, weights, cached, at, head_dim):  # pragma: no cover
    weight = load(scratch, weights)
    for d in range(head_dim):
        store(scratch, to + d, load(scratch, to + d) + weight * load(cached, at + d))


@inlined
def _weigh(scratch, scores, cached, base, num_keys, token, head_dim, group):  # pragma: no cover
    sums = group * head_dim
    for d in range(group * head_dim):
        store(scratch, sums + d, np.float32(0))
    for j in range(0, num_keys - 3, 4):
        for g in range(group):
            weights = scores + g * num_keys + j
            _add_four(scratch, sums + g * head_dim, weights, cached, base + j * token, token, head_dim)
    for j in range(num_keys - num_keys % 4, num_keys):
        for g in range(group):
            _add_one(scratch, sums + g * head_dim, scores + g * num_keys + j, cached, base + j * token, head_dim)


@inlined
def _attend(scratch, scores, keys, cached, base, num_keys, token, head_dim, group, line):  # pragma: no cover
    """Attend with the scaled queries that begin `scratch`; the sums go after them. A cache line has `line` elements."""
    _score(scratch, scores, keys, cached, base, num_keys, token, head_dim, group, line)
    for g in range(group):
        softmax(scratch, scores + g * num_keys, num_keys)
    _weigh(scratch, scores, cached, base, num_keys, token, head_dim, group)


def _compile(num_kv_heads: int, group: int, head_dim: int, bits: int) -> int:
    # The kernel captures only integers, for the cache key of `compile_kernel`.
    token, half = num_kv_heads * head_dim, head_dim // 2
    line = _LINE * 8 // bits
    # A thread's scratch, float32: `group` queries, as many sums, then one row of scores for each.
    sums, scores = group * head_dim, 2 * group * head_dim

    def kernel(arguments):  # pragma: no cover
        num_rows, stride, window = arguments[NUM_ROWS], arguments[HEADS_STRIDE], arguments[WINDOW]
        heads = elements(arguments[HEADS], bits)
        cosines, sines = elements(arguments[COSINES], bits), elements(arguments[SINES], bits)
        keys, cached = elements(arguments[CACHED_KEYS], bits), elements(arguments[CACHED_VALUES], bits)
        flat_index, positions = integers(arguments[FLAT_INDEX]), integers(arguments[POSITIONS])
        out = elements(arguments[OUT], bits)
        thread = thread_number(arguments)
        scratch = elements(arguments[SCRATCH] + thread * arguments[SCRATCH_STRIDE], BITS_FLOAT32)

        store_rows(arguments, num_kv_heads, group, head_dim, bits)

        # With many rows, a thread takes all heads of a row, so that its keys are one stream; else one head.
        at_once = num_kv_heads if num_rows >= MANY_ROWS else 1
        turn = take_ticket(arguments, TICKET) * at_once
        while turn < num_rows * num_kv_heads:
            for item in range(turn, turn + at_once):
                row, h = item // num_kv_heads, item % num_kv_heads
                first = max(0, positions[row] + 1 - window) if window > 0 else 0
                num_keys = positions[row] + 1 - first
                base = (flat_index[row] - num_keys + 1) * token + h * head_dim
                scale, at = float_argument(arguments, SCALE), row * stride + h * group * head_dim
                for g in range(0, group * head_dim, head_dim):
                    embed(heads, at + g, cosines, sines, row * head_dim, scratch, g, scale, half)
                _attend(scratch, scores, keys, cached, base, num_keys, token, head_dim, group, line)
                for d in range(group * head_dim):
                    store(out, item * group * head_dim + d, load(scratch, sums + d))
            turn = take_ticket(arguments, TICKET) * at_once

    return compile_kernel(kernel)


class RowAttention:
    """The kernel for layers of one shape. Not thread-safe."""

    def __init__(self, num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, in_bytes: bool) -> None:
        self._group = num_heads // num_kv_heads
        self._num_heads = num_heads
        self._width = num_heads * head_dim
        self._head_dim = head_dim
        self._itemsize = dtype.itemsize
        self._in_bytes = in_bytes
        self._matrices = not in_bytes and attends_by_matrices(self._group, head_dim, dtype)
        self._dots = not in_bytes and dtype is torch.bfloat16 and head_dim % 32 == 0 and multiplies_bfloat16()
        if in_bytes:
            kernel = compile_byte_attention(num_kv_heads, self._group, head_dim, BITS[dtype])
        elif self._matrices:
            kernel = compile_matrix_attention(num_kv_heads, self._group, head_dim)
        elif self._dots:
            kernel = compile_dot_attention(num_kv_heads, self._group, head_dim)
        else:
            kernel = _compile(num_kv_heads, self._group, head_dim, BITS[dtype])
        self._shapes_of = attention_shapes if self._matrices else nothing
        self._call = Call(kernel, NUM_ARGUMENTS)
        self._barrier = self._call.arguments[BARRIER] = shared_barrier().ctypes.data

    def step(self, qkv: int, out: int, cache: tuple[Tensor, ...], scale: float, window: int) -> Step:
        """The kernel as a step of a program; `qkv` is the address of `[rows, heads, head_dim]`: queries, keys, values.

        `set_rows` writes the rows' arguments into the program's table.
        """
        num_kv_heads = self._num_heads // self._group
        stride = (self._num_heads + 2 * num_kv_heads) * self._head_dim
        values = qkv + (self._num_heads + num_kv_heads) * self._head_dim * self._itemsize
        arguments = self._call.arguments.copy()
        arguments[HEADS : OUT + 1] = (qkv, stride, values, stride, out)
        arguments[CACHED_KEYS : SCALE + 1] = (cache[0].data_ptr(), cache[1].data_ptr(), window, float_bits(scale))
        arguments[KEY_SCALES:] = _scale_arguments(cache)
        numbers = self._scratch_for(cache[0])
        return Step(self._call.kernel, arguments, lambda _num_rows: numbers, self._shapes_of)

    def _scratch_for(self, keys: Tensor) -> int:
        if self._in_bytes:
            return byte_scratch(self._group, self._head_dim, keys.shape[1])
        if self._matrices:
            return attention_scratch(self._head_dim, keys.shape[1])
        if self._dots:
            return dot_scratch(self._group, self._head_dim)
        return self._group * (2 * self._head_dim + keys.shape[1])

    def __call__(
        self,
        heads: Tensor,
        values: Tensor,
        cosines: Tensor,
        sines: Tensor,
        cache: tuple[Tensor, ...],
        flat_index: Tensor,
        positions: Tensor,
        scale: float,
        window: int,
    ) -> Tensor:
        """Embed, store, attend; returns `[T, num_heads * head_dim]`.

        `heads` `[T, num_heads + num_kv_heads, head_dim]`, queries then keys before rotary embedding, `values`
        `[T, num_kv_heads, head_dim]`, each contiguous within a token; `cosines`, `sines` `[T, head_dim]`; `cache` the
        layer's keys and values `[num_slots, max_len, num_kv_heads, head_dim]`, in 8 bits followed by their scales
        `[num_slots, num_kv_heads, max_len]`; `flat_index` and `positions` int64 `[T]`, each token's index over all
        slots and in its own. `window` 0 is unlimited.
        """
        num_rows = len(heads)
        out = heads.new_empty(num_rows, self._width)
        buffer = scratch(self._scratch_for(cache[0]))
        self._call.set(
            *(0, *team_functions(), num_rows, buffer.data_ptr(), buffer.stride(0) * 4, self._shapes_of(num_rows)),
            *(heads.data_ptr(), heads.stride(0), values.data_ptr(), values.stride(0), out.data_ptr()),
            *(cosines.data_ptr(), sines.data_ptr(), flat_index.data_ptr(), positions.data_ptr()),
            *(cache[0].data_ptr(), cache[1].data_ptr(), window, float_bits(scale)),
            *(self._barrier, *_scale_arguments(cache)),
        )
        self._call.run()
        return out


def _scale_arguments(cache: tuple[Tensor, ...]) -> tuple[int, int, int]:
    """Addresses of the scales of keys and values, and a slot's tokens; zeros without scales."""
    return (cache[2].data_ptr(), cache[3].data_ptr(), cache[0].shape[1]) if len(cache) > 2 else (0, 0, 0)


def set_rows(
    table: NDArray[np.int64],
    steps: NDArray[np.int64],
    cosines: Tensor,
    sines: Tensor,
    flat_index: Tensor,
    positions: Tensor,
) -> None:
    """Write the rows' arguments of the `RowAttention` at `steps` into `table` `[all steps, ...]`."""
    table[steps, COSINES : POSITIONS + 1] = [one.data_ptr() for one in (cosines, sines, flat_index, positions)]


@functools.cache
def row_attention(
    num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, in_bytes: bool = False
) -> RowAttention:
    """The kernel for this shape, compiled once. `in_bytes`: over a cache in int8 with scales."""
    return RowAttention(num_heads, num_kv_heads, head_dim, dtype, in_bytes)
