"""A random adapter, on which kernels and graphs are proven at the start."""

from __future__ import annotations

import torch

from handler.adapters.adapter import LowRank
from handler.kernels.cuda.adapter_kernels import AdapterKernels, LowRankStack
from handler.runners.paged.adapters.memory import AdapterMemory
from handler.runners.paged.adapters.product import add_products

# Of products of about 1 in half precision, rounded once.
_TOLERANCE = 0.02
_TRIAL_RANK = 4


def trial_products(memory: AdapterMemory) -> dict[str, LowRank]:
    """Additions to every product of `memory`, of a tenth of its usual size."""
    random = torch.Generator().manual_seed(0)
    found = {}
    for path, held in memory.modules.items():
        out_features, in_features = held.stack.ends[-1], held.stack.down.shape[-1]
        rank = min(_TRIAL_RANK, held.stack.max_rank)
        down = torch.randn(rank, in_features, generator=random) / in_features**0.5
        up = torch.randn(out_features, rank, generator=random) / rank**0.5
        found[path] = LowRank(down, up, 0.1)
    return found


def kernels_differ(kernels: AdapterKernels, dtype: torch.dtype) -> bool:
    """Whether they say something else than torch, on random numbers: rows of two adapters and of none, three parts."""
    random = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random).to("cuda", dtype)

    ranks = torch.tensor([[8, 3, 0], [1, 8, 8]], dtype=torch.int32)
    down, up = numbers(2, 24, 514), numbers(2, 8, 96)
    down /= 514**0.5
    for slot, part in ((s, p) for s in range(2) for p in range(3)):
        down[slot, part * 8 + int(ranks[slot, part]) : part * 8 + 8] = 0
    scalings = torch.tensor([[0.5, 1.0, 2.0], [1.5, 0.25, 0.125]])
    stack = LowRankStack(down, up, ranks.to("cuda"), scalings.to("cuda"), (64, 80, 96))
    slots = torch.tensor([0, -1, 1, 1, 0, -1, 1], dtype=torch.int32).to("cuda")
    rows, expected = numbers(7, 514), numbers(7, 96)
    found = expected.clone()
    add_products(None, expected, rows, stack, slots)
    kernels.add(found, rows, stack, slots)
    gap = (found.float() - expected.float()).abs().max() / expected.float().abs().max()
    return not bool(gap <= _TOLERANCE)
