"""Replace a loaded model's linear layers by packed ones, on CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from handler.linears.choice import packed_for, packed_linear
from handler.linears.kernel_linear import KernelLinear
from handler.linears.linear import is_plain
from handler.linears.packed_linear import PackedLinear, fits
from handler.linears.weight_blocks import quantise

logger = logging.getLogger(__name__)

# Largest relative difference of products that rounding of weights and scales explains.
TOLERANCE = 3e-2
# The output layer decides between near ties; it keeps eight bits where the others have four.
OUTPUT_BITS = 8


class _ProductCheck:
    """Checks that packed layers give the products of their weights. The first layer of each kind is tried."""

    def __init__(self) -> None:
        self._passed: dict[tuple[type, int], bool] = {}

    def passes(self, layer: PackedLinear | KernelLinear, dense: Callable[[], Tensor]) -> bool:
        """`dense` returns the weights of `layer` as a matrix `[N, K]`."""
        kind = (type(layer), layer.bits)
        if kind not in self._passed:
            weight = dense()
            rows = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0)).to(weight.dtype)
            expected: Tensor = rows.float() @ weight.float().T
            got = layer(rows).float()
            if layer.bias is not None:
                expected += layer.bias.float()
            gap = float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
            self._passed[kind] = gap <= TOLERANCE
            if not self._passed[kind]:
                logger.error("%d-bit weights stay dense: their products differ by %.2g, relative", layer.bits, gap)
        return self._passed[kind]


def quantise_and_pack(model: nn.Module, bits: int, *, keep_dense: bool) -> int:
    """Quantise every linear layer whose shape the kernel takes to `bits`, the output layer to 8; returns how many.

    With `keep_dense` each keeps its quantised weights in dense form too, so that both kernels run one model.
    """
    output = _output_layer(model)
    tied = _shared(model)
    count, check = 0, _ProductCheck()
    left: list[str] = []
    for name, linear in list(_linears(model)):
        if not fits(linear.out_features, linear.in_features):
            left.append(f"{name} ({linear.out_features} x {linear.in_features})")
            continue
        weight = linear.weight.detach()
        blocks = quantise(weight, OUTPUT_BITS if linear is output else bits)
        dense = None
        if keep_dense:
            # The input embedding keeps a tied weight in memory anyway.
            dense = weight if weight.data_ptr() in tied else blocks.dequantise(weight.dtype)
        packed = packed_for(blocks, weight.dtype)
        layer = packed_linear(blocks.bits, *packed, _detached(linear.bias), dense)
        if not check.passes(layer, partial(blocks.dequantise, weight.dtype)):
            continue
        _replace(model, name, layer)
        count += 1
    if left:
        logger.warning(
            "%d linear layers stay unquantised, their shape is no multiple of 16 x 32: %s", len(left), ", ".join(left)
        )
    return count


def dense_bytes(model: nn.Module) -> int:
    """Memory of the weights of all linear layers, in bytes."""
    return sum(linear.weight.nbytes for _, linear in _linears(model))


def _linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and is_plain(module):
            yield name, module


def _output_layer(model: nn.Module) -> object:
    find = getattr(model, "get_output_embeddings", None)
    return None if find is None else find()


def _shared(model: nn.Module) -> set[int]:
    """Addresses of the weights of embeddings."""
    weights: list[Tensor] = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    return {weight.data_ptr() for weight in weights}


def _replace(model: nn.Module, name: str, layer: PackedLinear | KernelLinear) -> None:
    parent, _, child = name.rpartition(".")
    with torch.no_grad():
        setattr(model.get_submodule(parent), child, layer)


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()
