"""`PackedLinear`: weights of 4 or 8 bits by torch's own CPU kernel, with a dense copy for many rows if memory allows.

With few rows a CPU waits for weights, so fewer bytes take less time; with many it waits for arithmetic, and the dense
kernel is faster. docs/decisions/0010 has the figures.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handler.linears.linear import Linear
from handler.linears.quantised_weight import QuantisedWeight
from handler.linears.weight_blocks import BLOCK

# Rows up to which packed weights are faster than dense ones, by bits a weight. Constants, not measured at start:
# which kernel runs decides the last bits of a result, and those must not depend on how busy the machine was.
_MAX_PACKED_ROWS = {4: 7, 8: 4}
# Rows of the weight that torch's kernel packs together; whole groups can be joined without unpacking.
PACKED_TOGETHER = 64


class Kernel(enum.Enum):
    """Which weights a `PackedLinear` multiplies by: its choice by the number of rows, or always one of the two."""

    BY_ROWS = "by rows"
    PACKED = "packed"
    DENSE = "dense"


class KernelChoice:
    """The choice in force for every `PackedLinear` of the process, which has one engine thread.

    Under `PACKED` a row's result does not depend, to the last bit, on the rows beside it, one row included.
    """

    def __init__(self) -> None:
        self.kernel = Kernel.BY_ROWS

    @contextmanager
    def using(self, kernel: Kernel) -> Iterator[None]:
        """Compute with `kernel` inside the `with` block."""
        before, self.kernel = self.kernel, kernel
        try:
            yield
        finally:
            self.kernel = before


KERNEL = KernelChoice()


def kernel_bits(bits: int) -> int:
    """Bits in which codes of `bits` are stored: 4 or 8."""
    return 4 if bits <= 4 else 8


def fits(out_features: int, in_features: int) -> bool:
    """True if torch's kernel takes a weight of this shape."""
    return out_features % 16 == 0 and in_features % BLOCK == 0 and out_features > 0 and in_features > 0


def max_rows_by_one_kernel(model: nn.Module) -> int:
    """Rows up to which `model` multiplies by packed weights alone; 0 if it has no layer that switches kernels."""
    if KERNEL.kernel is not Kernel.BY_ROWS:
        return 0
    layers = (module for module in model.modules() if isinstance(module, PackedLinear))
    return min((layer.max_packed_rows for layer in layers if layer.has_dense), default=0)


class PackedLinear(nn.Module):
    """`Linear` over packed weights; `x` is bfloat16 or float32.

    Eight bits are two nibbles: `w = 16 * high + low`, one product with `x` given twice. The kernel takes scales of
    the activations' type, so bfloat16 rounds a scale as a dense bfloat16 weight rounds each weight.
    """

    def __init__(
        self, bits: int, packed: Tensor, scales_and_zeros: Tensor, bias: Tensor | None, dense: Tensor | None
    ) -> None:
        """`packed` uint8 `[N, K * bits / 8]`, `scales_and_zeros` `[K * bits / 128, N, 2]`, `dense` `[N, K]` or None."""
        super().__init__()
        self.bits = bits
        self.out_features, self.in_features = packed.shape[0], packed.shape[1] * 8 // bits
        self.max_packed_rows = _MAX_PACKED_ROWS[bits]
        # Plain attributes, no buffers: those cost half a microsecond at each look, and nothing moves this layer.
        self.packed = packed
        self.scales_and_zeros = scales_and_zeros
        self.bias = bias
        self.dense = dense
        # The prepacked dense copy. In a tuple, so that it is no submodule.
        self._prepacked: tuple[Linear, ...] = ()

    @classmethod
    def join(cls, parts: Sequence[PackedLinear], bias: Tensor | None) -> PackedLinear:
        """One layer with the outputs of all `parts`, of equal bits and inputs. They share its memory."""
        sizes = [one.out_features for one in parts]
        packed = torch.cat([one.packed for one in parts])
        for part, view in zip(parts, packed.split(sizes), strict=True):
            part.packed = view
        scales_and_zeros = torch.cat([one.scales_and_zeros for one in parts], 1)
        return cls(parts[0].bits, packed, scales_and_zeros, bias, _join_dense(parts))

    @property
    def weight(self) -> Tensor:
        """The weights `[N, K]`. Computed if there is no dense copy."""
        if self._prepacked:
            return self._prepacked[0].weight
        return self._unpack() if self.dense is None else self.dense

    @property
    def has_dense(self) -> bool:
        """True if there is a dense copy: the number of rows decides which weights are multiplied by."""
        return bool(self._prepacked) or self.dense is not None

    def prepack_dense(self, prepacked: Callable[[Tensor, Tensor | None], Linear]) -> None:
        """Replace the dense copy, if there is one, by the layer that `prepacked` makes of it and the bias."""
        if self.dense is not None:
            self._prepacked = (prepacked(self.dense, self.bias),)
            self.dense = None

    def restore_dense(self) -> None:
        """Undo `prepack_dense`."""
        if self._prepacked:
            self.dense = self._prepacked[0].weight
            self._prepacked = ()

    def forward(self, x: Tensor) -> Tensor:
        """`[..., K]` -> `[..., N]`."""
        dense = self._dense_for(x)
        return self._product(x) if dense is None else dense.forward(x)

    def silu(self, x: Tensor) -> Tensor:
        """`silu(y)`."""
        dense = self._dense_for(x)
        return F.silu(self._product(x), inplace=True) if dense is None else dense.silu(x)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """`y * other`, `other` `[..., N]`."""
        dense = self._dense_for(x)
        return self._product(x).mul_(other) if dense is None else dense.times(x, other)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """`y + other`, `other` `[..., N]`."""
        dense = self._dense_for(x)
        return self._product(x).add_(other) if dense is None else dense.plus(x, other)

    def _product(self, x: Tensor) -> Tensor:
        """By the packed weights, or by dense ones that are not prepacked."""
        if self.dense is not None and not self._takes_packed(x):
            return F.linear(x, self.dense, self.bias)
        out = self._multiply(x.reshape(-1, self.in_features))
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], self.out_features)

    def _dense_for(self, x: Tensor) -> Linear | None:
        """The prepacked dense copy if there is one and it is to multiply `x`."""
        return self._prepacked[0] if self._prepacked and not self._takes_packed(x) else None

    def _takes_packed(self, x: Tensor) -> bool:
        if KERNEL.kernel is Kernel.BY_ROWS:
            return x.numel() <= self.max_packed_rows * self.in_features
        return KERNEL.kernel is Kernel.PACKED

    def _multiply(self, rows: Tensor) -> Tensor:
        given = rows.contiguous() if self.bits == 4 else torch.cat((rows, rows), -1)
        out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(given, self.packed, BLOCK, self.scales_and_zeros)
        return out

    def _unpack(self) -> Tensor:
        """The product with an identity matrix: exactly what the layer multiplies by, and slow."""
        identity = torch.eye(self.in_features, dtype=self.scales_and_zeros.dtype)
        return self._multiply(identity).T.contiguous()

    def extra_repr(self) -> str:
        """As nn.Linear prints itself."""
        held = "packed and dense" if self.has_dense else "packed"
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}, {held}"


def pack_blocks(blocks: QuantisedWeight, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`packed` and `scales_and_zeros` of a `PackedLinear` for activations of `dtype`, for this processor only.

    `blocks` as from `weight_blocks.quantise` or `in_blocks`.
    """
    codes, scale, zero = as_nibbles(blocks)
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
    return packed, torch.stack([scale.T, zero.T], -1).to(dtype).contiguous()


def as_nibbles(blocks: QuantisedWeight) -> tuple[Tensor, Tensor, Tensor]:
    """Codes uint8 `[N, K']` below 16, scales and zeros `[N, K' / 32]` with `w = (code - 8) * scale + zero`.

    `blocks` as from `weight_blocks.quantise` or `in_blocks`.
    """
    assert blocks.minimum is not None
    # Fewer bits than are stored are moved to their middle, so that no large numbers cancel.
    stored, middle = kernel_bits(blocks.bits), 2 ** (blocks.bits - 1)
    moved = 2 ** (stored - 1) - middle
    codes = blocks.codes + moved if moved else blocks.codes
    if stored == 4:
        return codes, blocks.scale, blocks.minimum + middle * blocks.scale
    codes = torch.cat([codes >> 4, codes & 15], -1)
    scale = torch.cat([16 * blocks.scale, blocks.scale], -1)
    # 16 * (high - 8) + (low - 8) = code - 136; the low half carries the difference.
    zero = torch.cat([torch.zeros_like(blocks.scale), blocks.minimum + (middle + 8) * blocks.scale], -1)
    return codes, scale, zero


def _join_dense(parts: Sequence[PackedLinear]) -> Tensor | None:
    kept = [one.dense for one in parts if one.dense is not None]
    if not kept:
        return None
    dense = torch.cat(kept)
    for part, view in zip(parts, dense.split([one.out_features for one in parts]), strict=True):
        part.dense = view
    return dense
