"""What becomes of the weights of .gguf files at load."""

from __future__ import annotations

import torch

from handler.seam.config import Quantize


def stays_as_stored(quantize: Quantize, dtype: torch.dtype) -> bool:
    """Whether the weights are multiplied as they are; in float32 a weight is exact only as a dense one."""
    return dtype is not torch.float32 and quantize in (Quantize.INT4_BLOCKS, Quantize.AUTO)
