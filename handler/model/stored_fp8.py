"""Checkpoints in transformers' fp8 form: weights in 8-bit floats with a scale for each tensor or block."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers.utils.import_utils import is_kernels_available

logger = logging.getLogger(__name__)


def dequantise_fp8(model_config: Any, dtype: torch.dtype) -> None:
    """Have transformers dequantise a stored fp8 checkpoint at the start, into `dtype`.

    Its fp8 layers take their product from a package of the hub (`kernels`), which the image does not contain. Where
    that is installed, nothing changes.
    """
    values = fp8_settings(model_config)
    if values is None or is_kernels_available():
        return
    values["dequantize"] = True
    logger.info(
        "the checkpoint is stored in fp8 and is dequantised at the start: %d bytes a weight in memory instead of 1",
        dtype.itemsize,
    )


def fp8_settings(model_config: Any) -> dict[str, Any] | None:
    """The checkpoint's `quantization_config` if it says fp8, to read and to change; else None."""
    found = getattr(model_config, "quantization_config", None)
    values: dict[str, Any] | None = found if isinstance(found, dict) or found is None else vars(found)
    return values if values and values.get("quant_method") == "fp8" else None
