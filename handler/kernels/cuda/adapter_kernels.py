"""What adapters add to a product, for rows of many adapters at once, by two kernels of `layer.cu`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from handler.kernels.cuda.layer_kernels import load

# Rows and dots of a block of `adapter_down`, as `layer.cu` has them.
_ROWS, _DOTS = 4, 4
_DOWN_THREADS, _UP_THREADS = 256, 128
_MOST_PARTS = 3


@dataclass(frozen=True, slots=True, eq=False)
class LowRankStack:
    """The additions of all adapters to one product, whose N outputs are P parts beside each other.

    `down` `[S, P * R, K]` and `up` `[S, R, N]` for S slots and ranks up to R, in the activations' dtype; beyond a
    part's rank they are zeros, and so are columns of `up` beyond N, which make its width even. `ranks` int32 and
    `scalings` float32 `[S, P]`; rank 0: nothing is added. `ends`: the first column after each part.
    """

    down: Tensor
    up: Tensor
    ranks: Tensor
    scalings: Tensor
    ends: tuple[int, ...]

    @property
    def max_rank(self) -> int:
        """R."""
        return self.up.shape[1]

    @property
    def starts(self) -> tuple[int, ...]:
        """The first column of each part."""
        return (0, *self.ends[:-1])

    def part(self, index: int) -> LowRankStack:
        """One part alone: views."""
        if len(self.ends) == 1:
            return self
        columns = slice(self.starts[index], self.ends[index])
        return LowRankStack(
            self.down[:, index * self.max_rank : (index + 1) * self.max_rank],
            self.up[:, :, columns],
            self.ranks[:, index : index + 1],
            self.scalings[:, index : index + 1],
            (columns.stop - columns.start,),
        )

    def widened(self) -> LowRankStack | None:
        """The same with the columns beyond N, for a product whose output got as many; None if there are none."""
        width = self.up.shape[2]
        return replace(self, ends=(width,)) if len(self.ends) == 1 and width > self.ends[0] else None


class AdapterKernels:
    """The two kernels for one dtype, loaded on the current device. They never wait, and graphs hold them.

    A row's result depends on nothing but the row and its own adapter.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        """As `layer_kernels.load`."""
        self._dtype, kernels = dtype, load(dtype)
        self._down, self._up = kernels["adapter_down"], kernels["adapter_up"]

    def takes(self, out: Tensor, rows: Tensor, stack: LowRankStack) -> bool:
        """Whether `add` computes these: even sizes and aligned rows, of the kernels' dtype."""
        sizes = (rows.shape[-1], *stack.ends, *stack.up.stride()[:2], *stack.down.stride()[:2])
        tensors = (out, rows, stack.down, stack.up)
        return (
            all(one.dtype is self._dtype and one.is_cuda and one.data_ptr() % 4 == 0 for one in tensors)
            and not any(size % 2 for size in sizes)
            and len(stack.ends) <= _MOST_PARTS
            and out.stride(-1) == 1
            and not out.stride(-2) % 2
            and stack.down.stride()[1:] == (rows.shape[-1], 1)
            and stack.up.stride(2) == 1
        )

    def add(self, out: Tensor, rows: Tensor, stack: LowRankStack, slots: Tensor) -> None:
        """Add to `out` `[T, N]`, in place, what the adapter of each row of `rows` `[T, K]` adds.

        `out` may be columns of a wider tensor. `slots` int32 `[T]`: a slot of `stack`, or -1 for no adapter, whose row
        stays as it is, bit for bit. Raises ValueError for tensors that it does not take, and DriverError.
        """
        num_rows, width = rows.shape
        num_parts, max_rank = len(stack.ends), stack.max_rank
        fits = rows.is_contiguous() and slots.dtype is torch.int32 and slots.is_contiguous()
        if not fits or not self.takes(out, rows, stack) or not len(slots) == len(out) == num_rows:
            raise ValueError(f"no kernel takes these tensors (adapters): {tuple(out.shape)} {tuple(rows.shape)}")
        dots = torch.empty(num_rows, num_parts * max_rank, dtype=torch.float32, device=rows.device)
        known = slots.data_ptr(), stack.ranks.data_ptr()
        part_stride = stack.ranks.stride(0)
        self._down.launch(
            (-(-num_rows // _ROWS), -(-num_parts * max_rank // _DOTS)),
            _DOWN_THREADS,
            *(dots.data_ptr(), rows.data_ptr(), stack.down.data_ptr(), *known),
            *(num_rows, width, num_parts, max_rank, part_stride, stack.down.stride(0)),
        )
        ends = (*stack.ends, stack.ends[-1], stack.ends[-1])[:2]
        self._up.launch(
            (-(-stack.ends[-1] // (2 * _UP_THREADS)), -(-num_rows // _ROWS)),
            _UP_THREADS,
            *(out.data_ptr(), dots.data_ptr(), stack.up.data_ptr(), *known, stack.scalings.data_ptr()),
            *(num_rows, stack.ends[-1], num_parts, max_rank, *ends, part_stride),
            *(out.stride(0), stack.up.stride(0), stack.up.stride(1)),
        )
