"""Which linear layer multiplies by a weight on this processor, and a model's linears replaced by it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from handler.kernels.compiler import multiplies_bfloat16, multiplies_matrices, usable
from handler.linears.join import SideBySide
from handler.linears.kernel_linear import KernelLinear
from handler.linears.linear import Linear, is_plain
from handler.linears.onednn_linear import OneDnnLinear
from handler.linears.ordered_linear import OrderedLinear
from handler.linears.packed_linear import PackedLinear, fits, kernel_bits, pack_blocks
from handler.linears.quantised_weight import QuantisedWeight
from handler.linears.weight_blocks import in_blocks

if TYPE_CHECKING:  # where it runs, numba is loaded, which takes 0.3 s
    from handler.kernels.product.block_layout import PackedBlocks

# Outputs and inputs that our kernels take at a time.
_OUTPUTS, _INPUTS = 64, 32


def prepacked(weight: Tensor, bias: Tensor | None = None) -> OneDnnLinear | KernelLinear:
    """The fastest layer for `weight` `[N, K]`, which it copies, and `bias` `[N]`."""
    return KernelLinear.of_weight(weight, bias) if has_dense_kernel(weight) else OneDnnLinear(weight, bias)


def has_dense_kernel(weight: Tensor) -> bool:
    """True if this machine has a kernel of ours for a weight of this type and shape: bfloat16 and a matrix unit."""
    num_outputs, num_inputs = weight.shape
    fits = num_outputs % _OUTPUTS == 0 and num_inputs % _INPUTS == 0
    return weight.dtype is torch.bfloat16 and fits and usable(weight.dtype) and multiplies_matrices()


def can_prepack(device: torch.device, dtype: torch.dtype) -> bool:
    """True if `OneDnnLinear` runs here: torch is built with oneDNN, and the processor multiplies `dtype` natively."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype is torch.float32 or (dtype is torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def computes_blocks(dtype: torch.dtype) -> bool:
    """True if this machine has our kernel for packed weights and activations of `dtype`: numba, AVX-512 bfloat16."""
    return dtype is torch.bfloat16 and usable(dtype) and multiplies_bfloat16()


def quantised_layer(
    weight: QuantisedWeight, bias: Tensor | None, dtype: torch.dtype, dense: Tensor | None = None
) -> PackedLinear | KernelLinear | OrderedLinear | None:
    """The layer for `weight` `[N, K]` and `bias` `[N]` on CPU, activations of `dtype`; None if no kernel takes it.

    The caller then dequantises that weight. `dense` `[N, K]` is kept where the layer has use for it.
    """
    if weight.order is not None:
        layer = quantised_layer(replace(weight, order=None), bias, dtype)
        return None if layer is None else OrderedLinear(layer, weight.order)
    given = None if bias is None else bias.detach().to(dtype)
    packed = _for_kernel(weight, dtype)
    if packed is not None:
        return KernelLinear.of_blocks(packed, given)
    blocks = in_blocks(weight)
    if blocks is None or not fits(*weight.shape):
        return None
    return PackedLinear(kernel_bits(blocks.bits), *pack_blocks(blocks, dtype), given, dense)


def _for_kernel(weight: QuantisedWeight, dtype: torch.dtype) -> PackedBlocks | None:
    """`weight` packed for our kernel; None if this machine has none, or it does not take it."""
    if not computes_blocks(dtype):
        return None
    from handler.linears.block_packing import packed_blocks

    return packed_blocks(weight, tiles=multiplies_matrices())


def is_packed(module: nn.Module) -> bool:
    """True for a layer over weights of 4 to 8 bits."""
    return isinstance(module, PackedLinear | OrderedLinear) or (
        isinstance(module, KernelLinear) and module.packed is not None
    )


def fastest(linear: nn.Module) -> Linear:
    """The layer to use for a plain nn.Linear or a packed layer; a packed one stays, with its dense copy prepacked."""
    if isinstance(linear, SideBySide):
        return SideBySide([fastest(layer) for layer in linear.layers])
    if isinstance(linear, nn.Linear):
        return prepacked(linear.weight, linear.bias)
    if isinstance(linear, PackedLinear):
        linear.prepack_dense(prepacked)
    assert isinstance(linear, PackedLinear | KernelLinear | OrderedLinear)
    return linear


@dataclass(frozen=True, slots=True, eq=False)
class Replaced:
    """A plain nn.Linear whose place in the model another layer has taken.

    Its weight is on the meta device, unless the embedding holds the same one.
    """

    parent: nn.Module
    name: str
    linear: nn.Linear

    def restore(self) -> None:
        """Put the module back, with its weight as it was, bit for bit."""
        if self.linear.weight.is_meta:
            replacement: Linear = getattr(self.parent, self.name)
            refill(self.linear, replacement.weight)
        setattr(self.parent, self.name, self.linear)


def prepack_linears(model: nn.Module, replaced: list[Replaced]) -> None:
    """Replace every plain nn.Linear inside `model`, one by one, so that only one weight exists twice at a time.

    Adds each to `replaced`. A module that several parents hold is prepacked once.
    """
    shared = {module.weight.data_ptr() for module in model.modules() if isinstance(module, nn.Embedding)}
    made: dict[nn.Linear, nn.Module] = {}
    children = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    for parent, name, linear in children:
        if not (isinstance(linear, nn.Linear) and is_plain(linear)):
            continue
        if linear not in made:
            made[linear] = prepacked(linear.weight, linear.bias)
            if linear.weight.data_ptr() not in shared:
                empty(linear)
        replaced.append(Replaced(parent, name, linear))
        setattr(parent, name, made[linear])


def empty(linear: nn.Linear) -> None:
    """Free the memory of the weight; `refill` gives it back."""
    linear.weight = nn.Parameter(linear.weight.detach().to("meta"), requires_grad=False)


def refill(linear: nn.Linear, weight: Tensor) -> None:
    """Give a layer that was emptied its weight again."""
    linear.weight = nn.Parameter(weight, requires_grad=False)
