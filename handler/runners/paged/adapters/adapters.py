"""`PagedAdapters`: the resident adapters of a model over pages, and where they add to its layers."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from handler.adapters.adapter import Adapter
from handler.adapters.plain import PlainAdapters
from handler.adapters.rows import current_rows
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
    """Memory of `room` adapters, allocated at once; nothing is added before `attach`.

    What an adapter changes beside products of layers is left to `PlainAdapters`: embeddings, output layer, biases,
    experts. Steps with such an adapter run without graphs.
    """

    def __init__(self, loaded: LoadedModel, room: AdapterRoom) -> None:
        """Raises torch.OutOfMemoryError."""
        self._loaded = loaded
        self.memory = AdapterMemory(loaded.model, room, loaded.dtype)
        self._kernels: AdapterKernels | None = None
        self._plain = PlainAdapters(loaded.model, loaded.dtype)
        self._plain_slots: set[int] = set()
        logger.info(
            "adapters: %.2f GB set aside for %d of rank %d", self.memory.num_bytes / 1e9, room.num_slots, room.max_rank
        )

    def attach(self, own_kernels: bool) -> None:
        """Let every product ask the running step for its adapters. `own_kernels`: they may be used where right."""
        if own_kernels and self._loaded.device.type == "cuda" and not self._loaded.other_devices:
            self._kernels = _kernels(self._loaded.dtype)
        for held in self.memory.modules.values():
            held.module.register_forward_hook(partial(self._after, held.stack))
        paths = {held.module: path for path, held in self.memory.modules.items()}
        for layer in self._loaded.model.modules():
            if isinstance(layer, FusedLayer):
                layer.let_adapters_add(lambda parts: partial(self._add_joined, [paths[part] for part in parts]))

    def _after(self, stack: LowRankStack, _: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        self._add(stack, given[0], out)

    def _add_joined(self, paths: list[str], x: Tensor, out: Tensor) -> None:
        """What adapters add to neighbours that were multiplied as one: `out` `[..., N]`, in place."""
        stack = self.memory.modules[paths[0]].joined
        self._add(stack, x, out)
        if current_rows() is not None:
            for path, start, end in zip(paths, stack.starts, stack.ends, strict=True):
                part = out[..., start:end]
                part.copy_(self._plain.added(path, x, part))

    def _add(self, stack: LowRankStack, x: Tensor, out: Tensor) -> None:
        """What the running step's adapters add to a product `out` of `x`, in place; nothing in a step without."""
        step = STEP.get(None)
        if not isinstance(step, PagedStep) or step.adapter_slots is None:
            return
        slots = step.adapter_slots
        add_products(self._kernels, out, x, stack, slots if slots.device == out.device else slots.to(out.device))

    def load(self, slot: int, adapter: Adapter) -> None:
        """Put `adapter` into an empty slot. Raises BadAdapter if it does not fit, and torch.OutOfMemoryError."""
        products = self.memory.fitting(adapter)
        others = adapter.paths - products.keys()
        try:
            if others:
                self._plain.load(slot, adapter, others)
                self._plain_slots.add(slot)
            self.memory.load(slot, products)
        except BaseException:
            self.unload(slot)
            raise

    def check(self, adapter: Adapter) -> None:
        """Raise what `load` would raise in any slot."""
        self._plain.check(adapter, adapter.paths - self.memory.fitting(adapter).keys())

    def unload(self, slot: int) -> None:
        """Empty a slot."""
        self.memory.clear(slot)
        self._plain.unload(slot)
        self._plain_slots.discard(slot)

    def are_products(self, slots: Iterable[int]) -> bool:
        """Whether the adapters in `slots` are in `memory` alone, so that graphs hold them."""
        return self._plain_slots.isdisjoint(slots)


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
