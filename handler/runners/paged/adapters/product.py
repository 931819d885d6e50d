"""What adapters add to a product of rows of many adapters: by kernels of ours, or by torch's operations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from handler.kernels.cuda.adapter_kernels import AdapterKernels, LowRankStack

# Bytes of weights, in float32, that torch's operations gather at a time.
_GATHERED = 64 << 20


def add_products(kernels: AdapterKernels | None, out: Tensor, x: Tensor, stack: LowRankStack, slots: Tensor) -> None:
    """Add to `out` `[..., N]`, in place, what the adapter of each row of `x` `[..., K]` adds.

    `slots` int32 `[T]`: a slot of `stack` for each row, -1 for none, whose row keeps its bits. Computed in float32
    and rounded once. Never waits for the device. Raises RuntimeError if there are not T rows.
    """
    rows, found = x.reshape(-1, x.shape[-1]), out.view(-1, out.shape[-1])
    if len(rows) != len(slots):
        raise RuntimeError(f"adapters of {len(slots)} rows at a product of {len(rows)}")
    if kernels is None or not _by_kernels(kernels, found, rows, stack, slots):
        _by_torch(found, rows, stack, slots)


def _by_kernels(kernels: AdapterKernels, out: Tensor, rows: Tensor, stack: LowRankStack, slots: Tensor) -> bool:
    """False, and nothing is added, if they do not take these. They write pairs: odd outputs get a column more."""
    wide = stack.widened()
    held, stack = (out, stack) if wide is None else (F.pad(out, (0, wide.ends[0] - out.shape[1])), wide)
    if not kernels.takes(held, rows, stack):
        return False
    kernels.add(held, rows.contiguous(), stack, slots)
    if held is not out:
        out.copy_(held[:, : out.shape[1]])
    return True


def _by_torch(out: Tensor, rows: Tensor, stack: LowRankStack, slots: Tensor) -> None:
    """Each row is a product of matrices of its own, so its sums do not depend on the others."""
    size = max(1, _GATHERED // (4 * (stack.down[0].numel() + stack.up[0].numel())))
    for first in range(0, len(rows), size):
        part = slice(first, first + size)
        own = slots[part].clamp(min=0).long()
        uses = (slots[part] >= 0)[:, None]
        dots = torch.bmm(stack.down[own].float(), rows[part, :, None].float())
        added = torch.cat([_up(dots, stack, own, index) for index in range(len(stack.ends))], -1)
        out[part].copy_(torch.where(uses, (out[part].float() + added).to(out.dtype), out[part]))


def _up(dots: Tensor, stack: LowRankStack, own: Tensor, index: int) -> Tensor:
    """`[T, columns]` of one part, scaled."""
    part, rank = stack.part(index), stack.max_rank
    dots = dots[:, index * rank : (index + 1) * rank].transpose(1, 2)
    return torch.bmm(dots, part.up[own][..., : part.ends[-1]].float())[:, 0] * part.scalings[own]
