"""A model made faster on CPU, level by level, over the same weights.

Level 0 is stock torch. 1: weights prepacked once (`handler.linears.choice`). 2: a decoder layer in fewer operations
(`fused_layers`). 3: its attention and norms as kernels of ours (`handler.kernels`). 4: the kernels of all layers in one
call (`fused_stack`). Fused layers, stacks, norm and rotary embedding are compared one by one with what they replace. If
the trial of the whole model fails, `undo` takes all levels back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from handler.linears.choice import Replaced, prepack_linears, prepacked
from handler.linears.packed_linear import PackedLinear
from handler.runners.layer_kinds import decoder_layers
from handler.runners.slots.fused_layers import FusedDecoderLayer, fuse_layers
from handler.runners.slots.fused_stack import all_fused, stack_layers
from handler.runners.slots.norm_and_rotary import fuse_norm_and_rotary


class Acceleration:
    """All levels over one model, for as many of its parts as have the shape."""

    def __init__(self, model: Any, kv_codes: torch.dtype | None = None) -> None:
        """`kv_codes` is the 8-bit type of keys and values in the cache, if they have one."""
        self._model = model
        self._kv_codes = kv_codes
        self._layers = decoder_layers(model)
        self._linears: list[Replaced] = []
        self._others: dict[str, nn.Module] = {}
        self.num_fused = self.num_stacked = 0

    @torch.inference_mode()
    def apply(self, run: Callable[[nn.Module], Tensor], num_positions: int, tolerance: float) -> None:
        """`run` calls a decoder layer on some input; `tolerance` is relative to the largest result; rotary angles are
        kept for `num_positions`. If it raises, `undo` takes back what was done.
        """
        self.num_fused = fuse_layers(self._model, run, tolerance, self._kv_codes)
        self.num_stacked = stack_layers(self._model, run)
        if all_fused(self._model):
            fuse_norm_and_rotary(self._model, num_positions, tolerance, self._others)
        prepack_linears(self._model, self._linears)
        for packed in self._packed_linears():
            packed.prepack_dense(prepacked)

    @torch.inference_mode()
    def undo(self) -> None:
        """Put the replaced modules back, with their weights as they were."""
        for linear in self._linears:
            linear.restore()
        for name, module in self._others.items():
            setattr(self._model.model, name, module)
        for i, layer in enumerate(self._layers or ()):
            if isinstance(layer, FusedDecoderLayer):
                self._layers[i] = layer.restored()  # type: ignore[index]
        if self._layers is not None:
            self._model.model.layers = self._layers
        for packed in self._packed_linears():
            packed.restore_dense()

    def keep(self) -> None:
        """Free the replaced modules; `undo` is impossible afterwards."""
        for layer in self._layers or ():
            if isinstance(layer, FusedDecoderLayer):
                layer.forget_replaced()
        self._linears, self._others, self._layers = [], {}, None

    def _packed_linears(self) -> list[PackedLinear]:
        return [module for module in self._model.modules() if isinstance(module, PackedLinear)]
