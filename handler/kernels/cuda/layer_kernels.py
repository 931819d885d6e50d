"""The kernels of `layer.cu` as functions of tensors.

Tensors have the kernels' dtype and device. What a kernel would read wrongly is refused, so that no launch touches
memory that is not its own; only the numbers of slots are not read, because the host would wait for them.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from handler.kernels.cuda.driver import Kernel, Module, open_driver
from handler.kernels.cuda.nvrtc import compile_cubin, open_nvrtc

_P, _I, _L, _F = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong, ctypes.c_float
# Name -> types of the parameters, as `layer.cu` declares them.
SIGNATURES = {
    "row_norm": (*[_P] * 6, _I, _F, _I),
    "gate_times_up": (*[_P] * 3, _I, *[_L] * 2, _I),
    "rotate_and_store": (*[_P] * 6, *[_L] * 3, *[_P] * 5, *[_I] * 4, _F, _I),
    "adapter_down": (*[_P] * 5, *[_I] * 5, _L),
    "adapter_up": (*[_P] * 6, *[_I] * 7, *[_L] * 3),
}
# What tells `layer.cu` its elements.
DEFINES: dict[torch.dtype, tuple[str, ...]] = {torch.bfloat16: ("BFLOAT16",), torch.float16: ()}
# Threads of a block, at most `MAX_THREADS` of `layer.cu`; a head has fewer numbers than a row.
_ROW_THREADS, _HEAD_THREADS = 256, 64


@dataclass(frozen=True, slots=True, eq=False)
class NormWeight:
    """A root-mean-square norm: `weight` `[width]`, `epsilon`, and whether 1 is added to the weight (Gemma)."""

    weight: Tensor
    epsilon: float
    one_plus: bool


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """An attention layer's heads. Norms of each query and key, if any, differ by their weights only."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    query_norm: NormWeight | None = None
    key_norm: NormWeight | None = None


def layer_source() -> str:
    """The text of `layer.cu`."""
    return Path(__file__).with_name("layer.cu").read_text()


def load(dtype: torch.dtype) -> dict[str, Kernel]:
    """The kernels for one dtype, by name, loaded on the current device.

    Raises CompileError, DriverError, and KeyError for a dtype other than bfloat16 and float16.
    """
    capability = torch.cuda.get_device_capability()
    library = open_nvrtc(torch.version.cuda)
    module = Module(open_driver(), compile_cubin(library, layer_source(), capability, DEFINES[dtype]))
    return {name: module.kernel(name, types) for name, types in SIGNATURES.items()}


class LayerKernels:
    """The kernels that stand for a layer's modules. Each call is one kernel on torch's current stream.

    Each raises ValueError for tensors that it does not take, and DriverError.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        """As `load`."""
        self._dtype, kernels = dtype, load(dtype)
        self._row_norm, self._gate_times_up = kernels["row_norm"], kernels["gate_times_up"]
        self._rotate_and_store = kernels["rotate_and_store"]

    def norm(self, rows: Tensor, norm: NormWeight) -> Tensor:
        """The norm of `rows` `[..., width]`."""
        return self._norm(rows, norm, before=None, after=None)[0]

    def add_norm(self, rows: Tensor, residual: Tensor, norm: NormWeight) -> tuple[Tensor, Tensor]:
        """`residual + rows` and its norm."""
        normed, total = self._norm(rows, norm, before=residual, after=None)
        assert total is not None
        return total, normed

    def norm_add(self, rows: Tensor, residual: Tensor, norm: NormWeight) -> Tensor:
        """`residual` + the norm of `rows`."""
        return self._norm(rows, norm, before=None, after=residual)[0]

    def _norm(
        self, rows: Tensor, norm: NormWeight, before: Tensor | None, after: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        width, other = rows.shape[-1], before if before is not None else after
        _require(width % 2 == 0 and norm.weight.shape == (width,), "width", rows, norm.weight)
        _require(other is None or other.shape == rows.shape, "residual", rows, other)
        out, total = torch.empty_like(rows), None if before is None else torch.empty_like(rows)
        tensors = [self._whole(one) for one in (out, total, rows, before, after, norm.weight)]
        grid = (rows.numel() // width, 1)
        self._row_norm.launch(grid, _ROW_THREADS, *tensors, width, norm.epsilon, norm.one_plus)
        return out, total

    def gate_times_up(self, gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
        """`silu(gate) * up` `[1, T, width]`, or gelu in its tanh form; both may be columns of a wider tensor."""
        num_rows, width = gate.shape[-2:]
        strides = gate.stride(-2), up.stride(-2)
        _require(gate.shape == up.shape and not any(n % 2 for n in (width, *strides)), "gate and up", gate, up)
        out = gate.new_empty(gate.shape)
        tensors = [self._whole(out), *map(self._columns, (gate, up))]
        grid = (num_rows, -(-width // (2 * _ROW_THREADS)))
        self._gate_times_up.launch(grid, _ROW_THREADS, *tensors, width, *strides, gelu)
        return out

    def rotate_and_store(
        self,
        heads: Heads,
        projected: tuple[Tensor, Tensor, Tensor],
        angles: tuple[Tensor, Tensor],
        cache: tuple[Tensor, Tensor],
        slots: Tensor,
    ) -> Tensor:
        """Rotated queries `[T, num_heads, D]`; rotated keys, and values, go to `cache` at `slots`.

        `projected`: queries, keys and values `[1, T, heads * D]`, which may be columns of a wider tensor. `angles`:
        cosines and sines `[1, T, D]`. `cache`: keys and values `[pages, page_size, num_kv_heads, Dc]`, Dc at least D;
        `slots` int64 `[T]` = page * page_size + offset, each in the cache.
        """
        num_tokens = _check_heads(heads, projected, angles, cache, slots)
        counts = (heads.num_heads, heads.num_kv_heads, heads.head_dim, cache[0].shape[-1])
        norm = heads.query_norm
        weights = [None if one is None else one.weight for one in (heads.query_norm, heads.key_norm)]
        rotated = projected[0].new_empty(num_tokens, heads.num_heads, heads.head_dim)
        self._rotate_and_store.launch(
            (num_tokens, heads.num_heads + 2 * heads.num_kv_heads),
            _HEAD_THREADS,
            *map(self._whole, (rotated, *cache)),
            *map(self._columns, projected),
            *(one.stride(-2) for one in projected),
            *map(self._whole, angles),
            slots.data_ptr(),
            *map(self._whole, weights),
            *counts,
            *((norm.epsilon, norm.one_plus) if norm else (0.0, False)),
        )
        return rotated

    def _whole(self, tensor: Tensor | None) -> int | None:
        """The address of a contiguous tensor, aligned for two elements."""
        if tensor is None:
            return None
        _require(tensor.is_contiguous(), "contiguous rows", tensor)
        return self._address(tensor)

    def _columns(self, tensor: Tensor) -> int:
        """The address of `[1, T, width]`, whose rows may lie apart."""
        _require(tensor.stride(-1) == 1 and tensor.shape[:-2].numel() == 1, "rows", tensor)
        return self._address(tensor)

    def _address(self, tensor: Tensor) -> int:
        address = tensor.data_ptr()
        _require(tensor.dtype is self._dtype and tensor.is_cuda and address % 4 == 0, "elements", tensor)
        return address


def _check_heads(
    heads: Heads,
    projected: tuple[Tensor, Tensor, Tensor],
    angles: tuple[Tensor, Tensor],
    cache: tuple[Tensor, Tensor],
    slots: Tensor,
) -> int:
    """The number of tokens. Raises ValueError."""
    num_tokens, dim = projected[0].shape[-2], heads.head_dim
    numbers = (heads.num_heads, heads.num_kv_heads, heads.num_kv_heads)
    for part, number in zip(projected, numbers, strict=True):
        _require(part.shape == (1, num_tokens, number * dim), "heads", part)
    _require(all(one.shape == (1, num_tokens, dim) for one in angles) and dim % 2 == 0, "angles", *angles)
    _require(all(one.shape[-2] == heads.num_kv_heads and one.shape[-1] >= dim for one in cache), "cache", *cache)
    _require(cache[0].shape == cache[1].shape, "cache", *cache)
    _require(slots.shape == (num_tokens,) and slots.dtype is torch.int64 and slots.is_contiguous(), "slots", slots)
    norms = [one for one in (heads.query_norm, heads.key_norm) if one is not None]
    _require(len({(one.epsilon, one.one_plus) for one in norms}) <= 1 and len(norms) != 1, "norms", *projected)
    _require(all(one.weight.shape == (dim,) for one in norms), "norms", *(one.weight for one in norms))
    return num_tokens


def _require(ok: bool, what: str, *tensors: Tensor | None) -> None:
    if not ok:
        found = [f"{tuple(one.shape)} {one.dtype} {one.device}" for one in tensors if one is not None]
        raise ValueError(f"no kernel takes these tensors ({what}): {', '.join(found)}")
