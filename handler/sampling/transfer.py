"""Traffic between host and device: one upload before a step's sampling, one read after it.

Each copy of pageable memory and each read makes the host wait for a GPU, so a step packs all of them into one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNMENT = 16


def upload(arrays: Mapping[str, NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
    """The arrays as tensors on `device`, under the same names; to a GPU in one copy from pinned memory, unawaited."""
    if device.type == "cpu":
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    if not arrays:
        return {}
    sizes = [-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays.values()]
    starts = list(accumulate(sizes, initial=0))
    packed = np.zeros(starts[-1], np.uint8)
    for start, array in zip(starts, arrays.values(), strict=False):
        packed[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    sent = torch.from_numpy(packed).pin_memory().to(device, non_blocking=True)
    return {
        name: sent[start : start + array.nbytes].view(torch.from_numpy(array[:0]).dtype).view(array.shape)
        for start, (name, array) in zip(starts, arrays.items(), strict=False)
    }


def read_back(tensors: Sequence[Tensor]) -> list[list[Any]]:
    """The values of each tensor `[n]` or `[n, k]` as lists; from a GPU in one copy, where all become floats.

    Float64 holds float32, bool and token ids exactly.
    """
    if not tensors or tensors[0].device.type == "cpu":
        return [tensor.tolist() for tensor in tensors]
    first, *others = (tensor.reshape(-1) for tensor in tensors)
    values = torch.cat([first.double(), *others]).tolist()
    found: list[list[Any]] = []
    start = 0
    for tensor in tensors:
        flat = values[start : start + tensor.numel()]
        start += tensor.numel()
        width = tensor.shape[-1]
        found.append(flat if tensor.dim() == 1 else [flat[i : i + width] for i in range(0, len(flat), width)])
    return found
