"""A model made faster on CPU, level by level, over the same weights.

Level 0 is stock torch. 1: weights prepacked once (`handler.linears.choice`). 2: a decoder layer in fewer operations
(`fused_layers`). 3: its attention and norms as kernels of ours (`handler.kernels`). 4: the kernels of all layers in one
call (`fused_stack`). Each piece is compared with what it replaces; `undo` takes all of them back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from handler.linears.choice import Replaced, prepack_linears, prepacked
from handler.linears.packed_linear import PackedLinear
from handler.runners.slots.fused_ends import fuse_ends
from handler.runners.slots.fused_layers import FusedDecoderLayer, decoder_layers, fuse_layers
from handler.runners.slots.fused_stack import all_fused, stack_layers


class Acceleration:
    """All levels over one model, for as many of its parts as have the shape."""

    @torch.inference_mode()
    def __init__(self, model: Any, run: Callable[[nn.Module], Tensor], num_positions: int, tolerance: float) -> None:
        """Applies them. `run` calls a decoder layer on some input; `tolerance` is relative to the largest result;
        rotary angles are kept for `num_positions`.
        """
        self._model = model
        self.num_fused = fuse_layers(model, run, tolerance)
        self._layers = decoder_layers(model)
        self.num_stacked = stack_layers(model, run)
        self._ends: dict[str, nn.Module] = fuse_ends(model, num_positions, tolerance) if all_fused(model) else {}
        self._linears: list[Replaced] = prepack_linears(model)
        for packed in self._packed_linears():
            packed.prepack_dense(prepacked)

    @torch.inference_mode()
    def undo(self) -> None:
        """Put the replaced modules back, with their weights as they were."""
        for linear in self._linears:
            linear.restore()
        for packed in self._packed_linears():
            packed.restore_dense()
        for name, module in self._ends.items():
            setattr(self._model.model, name, module)
        if self._layers is not None:
            self._model.model.layers = self._layers
            for i, layer in enumerate(self._layers):
                if isinstance(layer, FusedDecoderLayer):
                    self._layers[i] = layer.restored()

    def _packed_linears(self) -> list[PackedLinear]:
        return [module for module in self._model.modules() if isinstance(module, PackedLinear)]
