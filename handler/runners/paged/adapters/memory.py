"""The weights of resident adapters, stacked by slot, in memory that never moves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from handler.adapters.adapter import Adapter, BadAdapter, LowRank
from handler.adapters.fused_names import FUSED
from handler.adapters.fused_names import num_parts as num_fused
from handler.adapters.model_shape import Size, linear_size
from handler.kernels.cuda.adapter_kernels import LowRankStack

# A module in a layer, and not one of many experts, which see some of the rows only.
_IN_LAYER = re.compile(r"\.\d+\.(?!.*\bexperts\b)")


@dataclass(frozen=True, slots=True)
class AdapterRoom:
    """How many adapters are resident at once, and the largest rank."""

    num_slots: int
    max_rank: int


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedModule:
    """A product that adapters may add to: `stack` is its own, a part of `joined`, which its neighbours share."""

    module: nn.Module
    stack: LowRankStack
    joined: LowRankStack
    part: int


class AdapterMemory:
    """A stack for every linear layer in the model's layers, experts excepted, allocated at once."""

    def __init__(self, model: Any, room: AdapterRoom, dtype: torch.dtype) -> None:
        """Weights are rounded to `dtype`. Raises torch.OutOfMemoryError."""
        self.room = room
        groups = list(_groups(model))
        num_parts = sum(map(len, groups))
        self._host_ranks = torch.zeros(room.num_slots, num_parts, dtype=torch.int32)
        self._host_scalings = torch.zeros(room.num_slots, num_parts)
        devices = {_device_of(module): None for group in groups for _, module in group}
        self._ranks = {device: self._host_ranks.to(device, copy=True) for device in devices}
        self._scalings = {device: self._host_scalings.to(device, copy=True) for device in devices}
        self.modules: dict[str, AdaptedModule] = {}
        self._columns: dict[str, int] = {}
        first = 0
        for group in groups:
            self._add(group, first, dtype)
            first += len(group)

    def _add(self, group: Sequence[tuple[str, nn.Module]], first: int, dtype: torch.dtype) -> None:
        # An adapter of rank r for each part of a fused module is one of the sum of their ranks.
        rank, num_parts = self.room.max_rank * num_fused(group[0][0]), len(group)
        device, in_features = _device_of(group[0][1]), _size(group[0][1]).num_inputs
        ends = torch.tensor([_size(module).num_outputs for _, module in group]).cumsum(0).tolist()
        slots, columns = self.room.num_slots, slice(first, first + num_parts)
        stack = LowRankStack(
            torch.zeros(slots, num_parts * rank, in_features, dtype=dtype, device=device),
            torch.zeros(slots, rank, ends[-1] + ends[-1] % 2, dtype=dtype, device=device),
            self._ranks[device][:, columns],
            self._scalings[device][:, columns],
            tuple(ends),
        )
        for part, (path, module) in enumerate(group):
            self.modules[path] = AdaptedModule(module, stack.part(part), stack, part)
            self._columns[path] = first + part

    @property
    def num_bytes(self) -> int:
        """Bytes of all slots."""
        stacks = {id(one.joined): one.joined for one in self.modules.values()}.values()
        return sum(stack.down.nbytes + stack.up.nbytes for stack in stacks)

    def fitting(self, adapter: Adapter) -> dict[str, LowRank]:
        """The products of `adapter` that a slot holds, of modules that it changes no other way.

        Raises BadAdapter if its rank is larger than that of a slot.
        """
        if adapter.max_rank > self.room.max_rank:
            raise BadAdapter(
                f"The adapter has rank {adapter.max_rank}; the largest here is {self.room.max_rank} (MAX_ADAPTER_RANK)"
            )
        others = adapter.paths - adapter.products.keys() | adapter.bias_changes.keys()
        return {
            path: product
            for path, product in adapter.products.items()
            if path in self.modules and path not in others and product.rank <= self.modules[path].stack.max_rank
        }

    @torch.inference_mode()
    def load(self, slot: int, products: dict[str, LowRank]) -> None:
        """Put `products`, all of `modules`, into a slot, which nobody uses, in place of what it holds."""
        self.clear(slot)
        for path, product in products.items():
            held, rank = self.modules[path].stack, product.rank
            _fill(held.down[slot], product.down)
            _fill(held.up[slot][:, : held.ends[-1]], product.up.t())
            self._host_ranks[slot, self._columns[path]] = rank
            self._host_scalings[slot, self._columns[path]] = product.scaling
        self._write(slot)

    @torch.inference_mode()
    def clear(self, slot: int) -> None:
        """From now on the slot adds nothing."""
        self._host_ranks[slot] = 0
        self._host_scalings[slot] = 0
        self._write(slot)

    def _write(self, slot: int) -> None:
        for host, held in ((self._host_ranks, self._ranks), (self._host_scalings, self._scalings)):
            for on_device in held.values():
                _upload(host[slot], on_device[slot])


def _fill(held: Tensor, given: Tensor) -> None:
    """Write `given` and zeros beyond it: what an adapter of a higher rank left is never multiplied again."""
    held[: len(given)].copy_(given, non_blocking=True)
    held[len(given) :].zero_()


def _upload(host: Tensor, into: Tensor) -> None:
    """The host goes on: a copy of its own is pinned until it is read."""
    into.copy_(host.clone().pin_memory() if into.is_cuda else host, non_blocking=True)


def _groups(model: nn.Module) -> Iterator[list[tuple[str, nn.Module]]]:
    """Linear layers by path; those of one input together, in the order in which they are joined."""
    linears: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        # A layer over quantised weights may hold another, which is not the model's.
        if path.rpartition(".")[0] not in linears and _IN_LAYER.search(f"{path}.") and linear_size(module):
            linears[path] = module
    taken: set[str] = set()
    for path in linears:
        if path in taken:
            continue
        parent, _, name = path.rpartition(".")
        # A fused layer computes the outputs of such neighbours, which have one input, at once.
        names = next((names for names in FUSED.values() if name in names), (name,))
        group = [(one, linears[one]) for one in (f"{parent}.{each}" for each in names) if one in linears]
        if len(group) != len(names) or len({(_size(each).num_inputs, _device_of(each)) for _, each in group}) > 1:
            group = [(path, linears[path])]
        taken.update(one for one, _ in group)
        yield group


def _size(module: nn.Module) -> Size:
    found = linear_size(module)
    assert found is not None
    return found


def _device_of(module: Any) -> torch.device:
    """Where the module's weights are; layers of ours hold them as plain attributes."""
    held = [*module.parameters(), *module.buffers(), *(one for one in vars(module).values() if isinstance(one, Tensor))]
    return held[0].device if held else torch.device("cpu")
