"""Checkpoints in transformers' fp8 form: weights in 8-bit floats with a scale for each tensor or block."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn
from transformers.utils.import_utils import is_kernels_available

from handler.linears.cuda.fp8_linear import Fp8Linear, fits_fp8, multiplies_fp8
from handler.linears.linear import has_own_code

logger = logging.getLogger(__name__)

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def prepare_fp8(model_config: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Have transformers dequantise a stored fp8 checkpoint at the start, unless `Fp8Linear` multiplies its weights.

    transformers' own layers take their product from a package of the hub (`kernels`), which the image does not
    contain. Where that is installed, they stay.
    """
    values = fp8_settings(model_config)
    if values is None or is_kernels_available() or _multiplied(values, model_config, device, dtype):
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


def _multiplied(values: dict[str, Any], model_config: Any, device: torch.device, dtype: torch.dtype) -> bool:
    """True if the weights stay in fp8: one scale a tensor, linear layers only, and a GPU with torch's product."""
    # A block size that is absent is transformers' default, 128 x 128; null is one scale for each tensor.
    by_tensor = "weight_block_size" in values and values["weight_block_size"] is None
    text_config = model_config.get_text_config()
    other_forms = bool(values.get("modules_to_convert")) or any(getattr(text_config, name, None) for name in _EXPERTS)
    return by_tensor and not other_forms and multiplies_fp8(device, dtype)


@torch.no_grad()
def replace_fp8(model: nn.Module) -> None:
    """Put `Fp8Linear` in the place of transformers' fp8 layers; those of an odd shape become dense."""
    if is_kernels_available():
        return
    found: list[tuple[str, Any]] = [(n, m) for n, m in model.named_modules() if type(m).__name__ == "FP8Linear"]
    kept = 0
    for name, module in found:
        if module.weight.dtype is not torch.float8_e4m3fn:
            continue
        fits = fits_fp8(module.out_features, module.in_features) and not has_own_code(module)
        layer = Fp8Linear(module.weight, module.weight_scale_inv, module.bias)
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, layer if fits else _dense(layer))
        kept += fits
    if kept:
        logger.info("%d linear layers multiply in fp8; each row of their inputs is rounded to fp8 too", kept)


def _dense(layer: Fp8Linear) -> nn.Linear:
    with torch.device("meta"):
        linear = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    linear.weight = nn.Parameter(layer.weight, requires_grad=False)
    if layer.bias is not None:
        linear.bias = nn.Parameter(layer.bias, requires_grad=False)
    return linear
