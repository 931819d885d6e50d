"""What each kernel of `handler/kernels/cuda/layer.cu` computes, in torch, by the operations of transformers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_FLOAT = torch.float32


class IllegalAddress(Exception):
    """A pointer leads outside the device's tensors."""


@dataclass(frozen=True)
class Memory:
    """Tensors at addresses. `holds` says whether bytes at an address belong to a living tensor."""

    dtype: torch.dtype
    holds: Callable[[int, int], bool]

    def at(self, address: int, *shape: int, stride: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """The numbers there; the rows of two dimensions may lie `stride` apart."""
        dtype = dtype or self.dtype
        strides = torch.empty(shape, device="meta").stride() if stride is None else (stride, 1)
        count = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if not self.holds(address, count * dtype.itemsize):
            raise IllegalAddress
        held = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
        return torch.frombuffer(held, dtype=dtype).as_strided(shape, strides)


def row_norm(
    memory: Memory, grid: tuple[int, int], _threads: int, out: int, total: int | None, rows: int, before: int | None,
    after: int | None, weight: int, width: int, epsilon: float, one_plus: int,
) -> None:  # fmt: skip
    shape = grid[0], width
    x = memory.at(rows, *shape)
    if before:
        x = memory.at(before, *shape) + x
        memory.at(total or 0, *shape).copy_(x)
    normed = _normed(x, memory.at(weight, width), epsilon, one_plus)
    memory.at(out, *shape).copy_(memory.at(after, *shape) + normed if after else normed)


def _normed(x: Tensor, weight: Tensor, epsilon: float, one_plus: int) -> Tensor:
    found = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + epsilon)
    return (found * (1.0 + weight.float())).to(x.dtype) if one_plus else weight * found.to(x.dtype)


def gate_times_up(
    memory: Memory, grid: tuple[int, int], threads: int, out: int, gate: int, up: int, width: int, gate_stride: int,
    up_stride: int, gelu: int,
) -> None:  # fmt: skip
    shape = grid[0], min(width, 2 * threads * grid[1])
    gates, ups = memory.at(gate, *shape, stride=gate_stride), memory.at(up, *shape, stride=up_stride)
    activated = F.gelu(gates, approximate="tanh") if gelu else F.silu(gates)
    memory.at(out, *shape, stride=width).copy_(activated * ups)


def rotate_and_store(
    memory: Memory, grid: tuple[int, int], _threads: int, rotated: int, keys: int, values: int, query: int, key: int,
    value: int, query_stride: int, key_stride: int, value_stride: int, cosines: int, sines: int, slots: int,
    query_weight: int | None, key_weight: int | None, num_heads: int, num_kv_heads: int, head_dim: int,
    cache_dim: int, epsilon: float, one_plus: int,
) -> None:  # fmt: skip
    tokens = grid[0]
    where = memory.at(slots, tokens, dtype=torch.int64)
    last = int(where.max()) + 1
    angles = [memory.at(one, tokens, 1, head_dim) for one in (cosines, sines)]
    q = memory.at(query, tokens, num_heads * head_dim, stride=query_stride).reshape(tokens, num_heads, head_dim)
    k = memory.at(key, tokens, num_kv_heads * head_dim, stride=key_stride).reshape(tokens, num_kv_heads, head_dim)
    v = memory.at(value, tokens, num_kv_heads * head_dim, stride=value_stride).reshape(k.shape)
    if query_weight and key_weight:
        q = _normed(q, memory.at(query_weight, head_dim), epsilon, one_plus)
        k = _normed(k, memory.at(key_weight, head_dim), epsilon, one_plus)
    memory.at(rotated, tokens, num_heads, head_dim).copy_(_rotated(q, *angles))
    memory.at(keys, last, num_kv_heads, cache_dim)[where, :, :head_dim] = _rotated(k, *angles)
    memory.at(values, last, num_kv_heads, cache_dim)[where, :, :head_dim] = v


def _rotated(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    low, high = heads.chunk(2, -1)
    return heads * cosines + torch.cat((-high, low), -1) * sines


def adapter_down(
    memory: Memory, grid: tuple[int, int], _threads: int, dots: int, rows: int, down: int, slots: int, ranks: int,
    num_rows: int, width: int, num_parts: int, max_rank: int, part_stride: int, slot_stride: int,
) -> None:  # fmt: skip
    assert grid == (-(-num_rows // 4), -(-num_parts * max_rank // 4))
    x, out = memory.at(rows, num_rows, width).float(), memory.at(dots, num_rows, num_parts * max_rank, dtype=_FLOAT)
    for row, slot, part, rank in _live(memory, slots, ranks, num_rows, num_parts, part_stride):
        start = slot * slot_stride + part * max_rank * width
        weight = memory.at(down + start * memory.dtype.itemsize, rank, width).float()
        out[row, part * max_rank : part * max_rank + rank] = weight @ x[row]


def adapter_up(
    memory: Memory, grid: tuple[int, int], threads: int, out: int, dots: int, up: int, slots: int, ranks: int,
    scalings: int, num_rows: int, width: int, num_parts: int, max_rank: int, first_end: int, second_end: int,
    part_stride: int, out_stride: int, slot_stride: int, rank_stride: int,
) -> None:  # fmt: skip
    assert grid == (-(-width // (2 * threads)), -(-num_rows // 4))
    own = memory.at(dots, num_rows, num_parts * max_rank, dtype=_FLOAT)
    found, ends = memory.at(out, num_rows, width, stride=out_stride), (0, first_end, second_end, width)
    for row, slot, part, rank in _live(memory, slots, ranks, num_rows, num_parts, part_stride):
        columns = slice(ends[part], width if part == num_parts - 1 else ends[part + 1])
        start = slot * slot_stride + columns.start
        size = (rank, columns.stop - columns.start)
        weight = memory.at(up + start * memory.dtype.itemsize, *size, stride=rank_stride).float()
        scaling = memory.at(scalings + (slot * part_stride + part) * 4, 1, dtype=_FLOAT)
        added = scaling * (own[row, part * max_rank : part * max_rank + rank] @ weight)
        found[row, columns] = (found[row, columns].float() + added).to(memory.dtype)


def _live(
    memory: Memory, slots: int, ranks: int, num_rows: int, num_parts: int, part_stride: int
) -> Iterator[tuple[int, int, int, int]]:
    """Row, slot, part and rank wherever an adapter adds something."""
    for row, slot in enumerate(memory.at(slots, num_rows, dtype=torch.int32).tolist()):
        if slot >= 0:
            found = memory.at(ranks + slot * part_stride * 4, num_parts, dtype=torch.int32).tolist()
            yield from ((row, slot, part, rank) for part, rank in enumerate(found) if rank)


REFERENCES: dict[str, Callable[..., Any]] = {
    "row_norm": row_norm,
    "gate_times_up": gate_times_up,
    "rotate_and_store": rotate_and_store,
    "adapter_down": adapter_down,
    "adapter_up": adapter_up,
}
