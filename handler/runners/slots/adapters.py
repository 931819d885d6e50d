"""`SlotAdapters`: the resident adapters of a model whose layers are fused, where the fused layers add them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from handler.adapters.adapter import Adapter
from handler.runners.slots.adapted_layers import INPUTS, LayerAdapters
from handler.runners.slots.fused_layers import LayerParts

if TYPE_CHECKING:  # loaded where it is used: it takes 0.3 s
    from handler.kernels.low_rank.low_rank import Factors, PackedFactors

# Slots at first; doubled as needed.
_FIRST_SLOTS = 8
_NAMES = tuple(name for names in INPUTS for name in names)


class SlotAdapters:
    """Adapters of fused layers, by slot."""

    def __init__(self, layers: dict[int, LayerParts]) -> None:
        """`layers`: the fused ones, by their number in the model."""
        self._layers = layers
        self._num_slots = 0
        # Without slots: they know how to pack, beside the loop's.
        self._packers: dict[int, LayerAdapters] = {}

    def holds(self, path: str) -> bool:
        """True if the module at `path` in the stock model is part of a fused layer."""
        found = _split(path)
        return found is not None and found[0] in self._layers and found[1] in _NAMES

    def prepared(self, adapter: Adapter) -> Adapter:
        """`adapter` with what it has for fused layers packed. One thread may do this, beside that of the passes."""
        if not self._layers or adapter.packed is not None:
            return adapter
        self._packers = self._packers or {number: LayerAdapters(parts, 0) for number, parts in self._layers.items()}
        packed = _packed(self._packers, adapter)
        products = {path: each for path, each in adapter.products.items() if not self.holds(path)}
        changes = {path: each for path, each in adapter.bias_changes.items() if not self.holds(path)}
        taken = [each for path, each in adapter.products.items() if path not in products]
        freed = sum(each.down.nbytes + each.up.nbytes for each in taken)
        freed += sum(each.nbytes for path, each in adapter.bias_changes.items() if path not in changes)
        num_bytes = adapter.num_bytes - freed + sum(memory.nbytes for _, memory in packed.values())
        return replace(adapter, products=products, bias_changes=changes, packed=packed, num_bytes=num_bytes)

    def load(self, slot: int, adapter: Adapter) -> None:
        """Let rows of the slot add what `adapter`, prepared or not, has for fused layers."""
        self._make_room(slot)
        packed: Any = self.prepared(adapter).packed
        for number, parts in self._layers.items():
            assert parts.adapters is not None
            parts.adapters.put(slot, *packed[number])

    def unload(self, slot: int) -> None:
        """Let rows of the slot add nothing, and free what they added."""
        for parts in self._layers.values():
            if parts.adapters is not None and slot < self._num_slots:
                parts.adapters.clear(slot)

    def _make_room(self, slot: int) -> None:
        if slot < self._num_slots:
            return
        num_slots = max(_FIRST_SLOTS, 1 << slot.bit_length())
        for parts in self._layers.values():
            if parts.adapters is None:
                parts.adapters = LayerAdapters(parts, num_slots)
            else:
                parts.adapters.grow(num_slots)
        self._num_slots = num_slots


def _packed(packers: Mapping[int, LayerAdapters], adapter: Adapter) -> dict[int, tuple[list[PackedFactors], Tensor]]:
    """What the adapter has for each layer, by input, and its memory. Layers lie one after the other in one piece."""
    from handler.kernels.low_rank.low_rank import padded_bytes, side_by_side

    layers = [packer.packed(_factors(packer, f"model.layers.{number}.", adapter)) for number, packer in packers.items()]
    moved, memory = side_by_side([one for layer in layers for one in layer])
    found, begin = {}, 0
    for i, number in enumerate(packers):
        layer = moved[i * len(INPUTS) : (i + 1) * len(INPUTS)]
        end = begin + padded_bytes(layer)
        found[number] = (layer, memory[begin:end])
        begin = end
    return found


def _split(path: str) -> tuple[int, str] | None:
    """`model.layers.3.mlp.up_proj` -> 3 and `mlp.up_proj`."""
    head, _, rest = path.removeprefix("model.layers.").partition(".")
    return (int(head), rest) if path.startswith("model.layers.") and head.isdecimal() else None


def _factors(layer: LayerAdapters, prefix: str, adapter: Adapter) -> dict[str, Factors]:
    from handler.kernels.low_rank.low_rank import Factors

    inputs = zip(layer.inputs, INPUTS, strict=True)
    widths = {name: one.in_features for one, names in inputs for name in names}
    found = {}
    for name, width in widths.items():
        low_rank, bias = adapter.products.get(prefix + name), adapter.bias_changes.get(prefix + name)
        if low_rank is not None:
            found[name] = Factors(low_rank.down, low_rank.up, low_rank.scaling, bias)
        elif bias is not None:
            found[name] = Factors(bias.new_empty(0, width), bias.new_empty(len(bias), 0), 0.0, bias)
    return found
