"""`PagedAdapters`: the resident adapters of a model over pages, and where they add to its layers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from handler.adapters.adapter import Adapter, BadAdapter
from handler.kernels.cuda.adapter_kernels import AdapterKernels, LowRankStack
from handler.kernels.cuda.driver import DriverError
from handler.kernels.cuda.layer_kernels import DEFINES
from handler.kernels.cuda.nvrtc import CompileError
from handler.model.loader import LoadedModel
from handler.runners.attention import STEP
from handler.runners.paged.adapters.memory import AdapterMemory, AdapterRoom
from handler.runners.paged.adapters.product import add_products
from handler.runners.paged.adapters.trial_adapter import kernels_differ
from handler.runners.paged.attention import PagedStep
from handler.runners.paged.fused_layers import FusedLayer
from handler.seam.errors import one_line

logger = logging.getLogger(__name__)


class PagedAdapters:
    """Memory of `room` adapters, allocated at once; nothing is added before `attach`."""

    def __init__(self, loaded: LoadedModel, room: AdapterRoom) -> None:
        """Raises torch.OutOfMemoryError."""
        self._loaded = loaded
        self.memory = AdapterMemory(loaded.model, room, loaded.dtype)
        self._kernels: AdapterKernels | None = None
        self._handles: list[RemovableHandle] = []
        logger.info(
            "adapters: %.2f GB set aside for %d of rank %d", self.memory.num_bytes / 1e9, room.num_slots, room.max_rank
        )

    def attach(self, own_kernels: bool) -> None:
        """Let every product ask the running step for its adapters. `own_kernels`: they may be used where right."""
        if own_kernels and self._loaded.device.type == "cuda" and not self._loaded.other_devices:
            self._kernels = _kernels(self._loaded.dtype)
        for held in self.memory.modules.values():
            self._handles.append(held.module.register_forward_hook(partial(self._after, held.stack)))
        by_module = {held.module: held.joined for held in self.memory.modules.values()}
        for layer in self._loaded.model.modules():
            if isinstance(layer, FusedLayer):
                layer.let_adapters_add(self._joined_addition(by_module))

    def _joined_addition(self, by_module: dict[nn.Module, LowRankStack]) -> Callable[[Any], Any]:
        return lambda module: partial(self.add, by_module[module])

    def _after(self, stack: LowRankStack, _: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        self.add(stack, given[0], out)

    def add(self, stack: LowRankStack, x: Tensor, out: Tensor) -> None:
        """What the running step's adapters add to a product `out` of `x`, in place; nothing in a step without."""
        step = STEP.get(None)
        if not isinstance(step, PagedStep) or step.adapter_slots is None:
            return
        slots = step.adapter_slots
        add_products(self._kernels, out, x, stack, slots if slots.device == out.device else slots.to(out.device))

    def load(self, slot: int, adapter: Adapter) -> None:
        """Put `adapter` into an empty slot. Raises BadAdapter if it does not fit."""
        other = sorted(adapter.paths - self.memory.modules.keys() | _not_products(adapter))
        if other:
            raise BadAdapter(f"On CUDA adapters change linear layers only, and this one changes {other[0]} as well")
        self.memory.check(adapter)
        self.memory.load(slot, adapter.products)

    def unload(self, slot: int) -> None:
        """Empty a slot."""
        self.memory.clear(slot)


def _not_products(adapter: Adapter) -> frozenset[str]:
    """What it changes otherwise than by a product."""
    return adapter.paths - adapter.products.keys()


def _kernels(dtype: torch.dtype) -> AdapterKernels | None:
    """None where torch's operations must do: the log says why."""
    if dtype not in DEFINES:
        return None
    try:
        found = AdapterKernels(dtype)
        if not kernels_differ(found, dtype):
            return found
        logger.warning("adapters: own kernels say something else than torch, so torch's operations are used")
    except (CompileError, DriverError, ValueError) as exc:
        logger.warning("adapters: own kernels cannot be used here: %s", one_line(exc))
    return None
