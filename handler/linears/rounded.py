"""`ACTIVATION_DTYPE=int8`: whether the layers of a model round their activations."""

from __future__ import annotations

import logging

from torch import nn

from handler.kernels.compiler import multiplies_matrices
from handler.linears.kernel_linear import KernelLinear
from handler.linears.linear import is_plain
from handler.linears.packed_linear import PackedLinear
from handler.seam.errors import BadConfiguration

logger = logging.getLogger(__name__)


def check_rounded(model: nn.Module, device: str) -> None:
    """Log how many layers of `model` round their activations to int8.

    Raises BadConfiguration if none does, and says why.
    """
    kernels = [module for module in model.modules() if isinstance(module, KernelLinear)]
    rounded = sum(layer.rounds for layer in kernels)
    if not rounded:
        raise BadConfiguration(f"ACTIVATION_DTYPE=int8 cannot be done here: {_reason(model, kernels, device)}")
    others = len(kernels) - rounded + sum(is_plain(each) or isinstance(each, PackedLinear) for each in model.modules())
    logger.info("activations of %d layers are rounded to int8, those of %d are not", rounded, others)


def _reason(model: nn.Module, kernels: list[KernelLinear], device: str) -> str:
    if device != "cpu":
        return f"it is for CPU, and the model is on {device}"
    if any(layer.packed is not None for layer in kernels):
        if multiplies_matrices():
            return "this processor's matrix unit (AMX) multiplies 4- and 8-bit weights by bfloat16"
        return "the weights are entries of a table of values, or the processor has no integer dot products (VNNI)"
    if any(isinstance(module, PackedLinear) for module in model.modules()):
        return "it needs DTYPE=bfloat16 and a processor with AVX-512 for bfloat16"
    return "the model has no weights of 4 to 8 bits; HF_MODEL_QUANTIZE=int4 or int8 makes them"
