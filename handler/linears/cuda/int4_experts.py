"""`Int4Experts`: experts' matrices in torch's 4-bit packing on CUDA, multiplied without a wait for the host.

docs/decisions/0114.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from handler.linears.cuda.int4_linear import Int4Linear, int4_product
from handler.linears.experts.matrices import BatchedMatrices

# Rows of the product's tile: fewer cost as much.
_TILE_ROWS = 16


class Int4Experts(BatchedMatrices):
    """Over `Int4Linear` layers, which share its memory from then on."""

    def __init__(self, layers: Sequence[Int4Linear], *, share_rows: bool) -> None:
        """`layers` have equal bits, groups and sizes. `share_rows`: `every` is given the same rows for all experts."""
        packed = torch.stack([each.packed for each in layers])
        scales = [each.scales_and_zeros for each in layers]
        # The kernel reads whole matrices: all of them as one where they share rows, else each alone.
        scales_and_zeros = torch.stack(scales, 1).transpose(0, 1) if share_rows else torch.stack(scales)
        for each, own_codes, own_scales in zip(layers, packed, scales_and_zeros, strict=True):
            each.packed, each.scales_and_zeros = own_codes, own_scales
        super().__init__(layers)
        # [E, N / 8, K / (16 I), 32, I / 2] and [E, G, N, 2], as in `Int4Linear`.
        self._packed, self._scales_and_zeros = packed, scales_and_zeros
        self._bits, self._group, self._outputs = layers[0].bits, layers[0].group, layers[0].out_features
        self._whole = (self._joined(packed, scales_and_zeros),) if share_rows else ()

    def _joined(self, packed: Tensor, scales_and_zeros: Tensor) -> Int4Linear:
        """One layer with the outputs of several matrices, one after the other."""
        return Int4Linear(self._bits, packed.flatten(0, 1), scales_and_zeros.transpose(0, 1).flatten(1, 2), None)

    def every(self, rows: Tensor) -> Tensor:
        """See `BatchedMatrices`."""
        if self._whole:
            out: Tensor = self._whole[0](rows)
            return out.view(len(rows), self.num_experts, self._outputs).transpose(0, 1)
        return torch.stack([self.layers[i](own) for i, own in enumerate(rows.contiguous())])

    def chosen(self, rows: Tensor, experts: Tensor) -> Tensor:
        """See `BatchedMatrices`. The matrices of a tile of rows multiply all of it, and each row keeps its own."""
        tiles = zip(rows.split(_TILE_ROWS), experts.split(_TILE_ROWS), strict=True)
        return torch.cat([self._tile(*each) for each in tiles])

    def _tile(self, rows: Tensor, experts: Tensor) -> Tensor:
        packed = self._packed.flatten(1).index_select(0, experts).view(-1, *self._packed.shape[2:])
        scales_and_zeros = self._scales_and_zeros.index_select(0, experts).transpose(0, 1).flatten(1, 2)
        out = int4_product(self._bits, rows, packed, self._group, scales_and_zeros)
        return out.view(len(rows), len(rows), self._outputs).diagonal(0, 0, 1).T
