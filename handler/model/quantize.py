"""HF_MODEL_QUANTIZE: how the weights are stored on this device. The only file that configures bitsandbytes."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from handler.linears.cuda.int4_linear import multiplies_int4
from handler.seam.config import Quantize
from handler.seam.errors import BadConfiguration
from model_memory.stored_codes import AUTO_ROUND, refusal, stored_name

logger = logging.getLogger(__name__)

BITSANDBYTES = frozenset({Quantize.INT8, Quantize.NF4, Quantize.FP4})
# Bits per weight of the forms that this engine makes itself.
BLOCK_BITS = {Quantize.INT8_BLOCKS: 8, Quantize.INT4_BLOCKS: 4}
# Names that describe how a checkpoint is stored, with the values of `quant_method` in config.json for each. Marlin is a
# kernel for the codes of GPTQ and AWQ.
_STORED = {
    Quantize.GPTQ: {"gptq", *AUTO_ROUND},
    Quantize.AWQ: {"awq"},
    Quantize.MARLIN: {"gptq", "awq"},
    Quantize.COMPRESSED_TENSORS: {"compressed-tensors"},
    Quantize.FP8: {"fp8", "fbgemm_fp8", "modelopt"},
}
# Weights per scale in bitsandbytes' 4-bit forms, and the rows that its CPU kernel processes together.
_NF4_BLOCK = 64
_NF4_ROWS = 32
_INT8_MULTIPLE = 16


def resolve(wanted: Quantize, device: torch.device, dtype: torch.dtype, model_config: Any) -> Quantize:
    """The form that HF_MODEL_QUANTIZE means for this checkpoint and device; `AUTO` if memory decides later.

    A checkpoint that is already quantised keeps its own form. Raises BadConfiguration.
    """
    stored = stored_form(model_config)
    if wanted is Quantize.EXL2:
        raise BadConfiguration(f"HF_MODEL_QUANTIZE=exl2 is not supported: {refusal({'quant_method': 'exl2'})}")
    if stored is not None:
        if wanted not in {Quantize.AUTO, Quantize.NONE} and stored not in {wanted, *_STORED.get(wanted, ())}:
            logger.warning("the checkpoint is stored as %s; HF_MODEL_QUANTIZE=%s is not applied", stored, wanted)
        return Quantize.NONE
    if wanted in _STORED:
        raise BadConfiguration(
            f"HF_MODEL_QUANTIZE={wanted} is for checkpoints that are stored that way, and this one's config.json "
            "names no quantization_config; int8, int4, bitsandbytes and bitsandbytes-nf4 quantise at load"
        )
    has_blocks = device.type == "cpu" or multiplies_int4(device, dtype)
    if wanted is Quantize.EETQ:
        return Quantize.INT8_BLOCKS if has_blocks else Quantize.INT8
    if wanted in BLOCK_BITS and not has_blocks:
        raise BadConfiguration(
            f"HF_MODEL_QUANTIZE={wanted} computes in bfloat16 on a GPU of compute capability 8.0 or more, and this is "
            f"{str(dtype).removeprefix('torch.')} on {_gpu(device)}; use bitsandbytes-nf4 here"
        )
    return wanted


def _gpu(device: torch.device) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"{device} of capability {major}.{minor}"


def stored_form(model_config: Any) -> str | None:
    """The checkpoint's quantisation by config.json, as an HF_MODEL_QUANTIZE name if there is one; None if none."""
    values = stored_values(model_config)
    return stored_name(values) if values else None


def stored_values(model_config: Any) -> dict[str, Any]:
    """The checkpoint's `quantization_config`, itself, to read and to change; {} if its weights are dense."""
    found = getattr(model_config, "quantization_config", None)
    values: dict[str, Any] = found if isinstance(found, dict) else vars(found) if found else {}
    return values


def skipped_modules(skeleton: nn.Module, quantize: Quantize) -> list[str]:
    """Linear layers of `skeleton` that bitsandbytes must not quantise, by module name.

    These are transformers' exceptions (output layer, tied weights), and shapes that the kernels do not support: on CPU
    those fail with an assertion in the middle of a forward pass.
    """
    usual, odd = _skipped(skeleton, quantize)
    if odd:
        logger.warning(
            "%d linear layers stay unquantised, their shape does not fit %s: %s",
            *(len(odd), quantize, ", ".join(f"{name} ({rows} x {columns})" for name, (rows, columns) in odd)),
        )
    return sorted(usual | {name for name, _ in odd})


def _skipped(skeleton: nn.Module, quantize: Quantize) -> tuple[set[str], list[tuple[str, tuple[int, int]]]]:
    """Linear layers that stay as they are: transformers' exceptions by name, and odd shapes by name and shape."""
    from transformers.quantizers.base import get_keys_to_not_convert

    usual = set(get_keys_to_not_convert(skeleton))
    return usual, [
        (name, shape) for name, shape in _linear_shapes(skeleton) if name not in usual and _odd(shape, quantize)
    ]


def bitsandbytes_config(quantize: Quantize, dtype: torch.dtype, skipped: list[str]) -> Any:
    """transformers' configuration for bitsandbytes; `skipped` are module names."""
    from transformers import BitsAndBytesConfig

    if quantize is Quantize.INT8:
        # Threshold 0 disables separate outlier columns. They are chosen from the whole batch, so a neighbour would
        # change a sequence's numbers (docs/decisions/0012).
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4" if quantize is Quantize.NF4 else "fp4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skipped,
    )


def _linear_shapes(skeleton: nn.Module) -> list[tuple[str, tuple[int, int]]]:
    """Name and (outputs, inputs) of the layers that bitsandbytes replaces: nn.Linear and GPT-2's Conv1D."""
    from transformers.pytorch_utils import Conv1D

    found = []
    for name, module in skeleton.named_modules():
        if type(module) is nn.Linear:
            found.append((name, (module.out_features, module.in_features)))
        elif isinstance(module, Conv1D):
            found.append((name, (module.weight.shape[1], module.weight.shape[0])))
    return found


def _odd(shape: tuple[int, int], quantize: Quantize) -> bool:
    rows, columns = shape
    if quantize is Quantize.INT8:
        return bool(rows % _INT8_MULTIPLE or columns % _INT8_MULTIPLE)
    return bool(rows % _NF4_ROWS or columns % _NF4_BLOCK)
