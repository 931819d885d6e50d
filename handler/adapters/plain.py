"""`PlainAdapters`: adapters added to modules of a loaded model by hooks, in plain torch, on any device.

A module gets its hook with the first adapter that changes it and loses it with the last, so a model without adapters
runs as it did. A pass without a row of an adapter costs one look at the current rows for each hook.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from handler.adapters.adapter import Adapter
from handler.adapters.additions import (
    Addition,
    EmbeddingAddition,
    ExpertsAddition,
    LinearAddition,
    OutputAddition,
    RouterAddition,
)
from handler.adapters.rows import AdapterRows, current_rows


@dataclass(slots=True, eq=False)
class _Hooked:
    """A module with its additions by slot."""

    module: nn.Module
    is_output: bool
    additions: dict[int, Addition | RouterAddition] = field(default_factory=dict)
    handle: Any = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The forward hook: the output with what adapters add to their rows; None leaves it as it is."""
        rows = current_rows()
        used = [] if rows is None else [slot for slot in rows.used if slot in self.additions]
        if rows is None or not used:
            return None
        outputs = output if isinstance(output, tuple) else (output,)
        are_ids = isinstance(module, nn.Embedding)
        inputs = [_flat(each, are_ids=are_ids) for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        flat = [_flat(each) for each in outputs]
        index = self._index(rows, used, outputs[0], len(flat[0]))
        for slot in used:
            flat = self._added(module, slot, index[slot], inputs, flat)
        shaped = tuple(each.view(like.shape) for each, like in zip(flat, outputs, strict=True))
        return shaped if isinstance(output, tuple) else shaped[0]

    def _index(self, rows: AdapterRows, used: list[int], output: Tensor, count: int) -> dict[int, Tensor]:
        """The rows of `output`, of which there are `count`, that use each adapter.

        A module may see all tokens of each sequence so far, as where DeepSeek's attention keeps latent keys. Raises
        RuntimeError if it sees other rows than those.
        """
        slots, index = (rows.output_slots, rows.output_index) if self.is_output else (rows.slots, rows.index)
        if count == len(slots):
            return index
        batch = output.shape[0]
        by_sequence = slots.view(batch, -1) if len(slots) % batch == 0 and count % batch == 0 else None
        if by_sequence is None or not bool((by_sequence == by_sequence[:, :1]).all()):
            raise RuntimeError(
                f"a module that adapters change sees {tuple(output.shape)} in a pass of {len(slots)} rows"
            )
        spread = by_sequence[:, 0].repeat_interleave(count // batch)
        return {slot: (spread == slot).nonzero()[:, 0] for slot in used}

    def _added(
        self, module: nn.Module, slot: int, index: Tensor, inputs: list[Tensor], outputs: list[Tensor]
    ) -> list[Tensor]:
        addition = self.additions[slot]
        own = [each.index_select(0, index) for each in inputs]
        if isinstance(addition, RouterAddition):
            made = addition.module.forward(*own)
            news = made if isinstance(made, tuple) else (made,)
        else:
            news = (addition(module, tuple(own), outputs[0].index_select(0, index)),)
        return [each.index_copy(0, index, new) for each, new in zip(outputs, news, strict=True)]


def _flat(tensor: Tensor, *, are_ids: bool = False) -> Tensor:
    """`[..., N]`, or token ids `[...]`, as rows."""
    return tensor.reshape(-1) if are_ids or tensor.dim() == 1 else tensor.reshape(-1, tensor.shape[-1])


class PlainAdapters:
    """The additions of resident adapters to the modules of `model` that the runner leaves to them."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        """`dtype` is that of activations. Later changes of the model may replace modules or hide them."""
        self._model, self._dtype = model, dtype
        # Weak: a module that was replaced must be freed with its weights.
        modules = model.named_modules(remove_duplicate=False)
        self._first_modules = {path: weakref.ref(module) for path, module in modules}
        self._hooked: dict[str, _Hooked] = {}

    @property
    def in_use(self) -> bool:
        """True if a module has a hook."""
        return bool(self._hooked)

    def load(self, slot: int, adapter: Adapter, paths: Collection[str] | None = None) -> None:
        """Add `adapter` to the rows of `slot`; `paths` are those of `adapter.paths` to add to, None for all."""
        self.unload(slot)
        for path in _modules(adapter, paths):
            hooked = self._hooked.get(path) or self._hook(path)
            hooked.additions[slot] = self._addition(adapter, path, hooked)

    def check(self, adapter: Adapter, paths: Collection[str] | None = None) -> None:
        """Raise what `load` would raise, and add nothing."""
        for path in _modules(adapter, paths):
            self._addition(adapter, path, self._unhooked(path))

    def unload(self, slot: int) -> None:
        """Forget the adapter in `slot`, if there is one."""
        for path, hooked in list(self._hooked.items()):
            hooked.additions.pop(slot, None)
            if not hooked.additions:
                hooked.handle.remove()
                del self._hooked[path]

    def added(self, path: str, x: Tensor, output: Tensor) -> Tensor:
        """What the hook of the module at `path` makes of `output`, which other code than the module computed of `x`."""
        hooked = self._hooked.get(path)
        found = None if hooked is None else hooked(hooked.module, (x,), {}, output)
        return output if found is None else found

    def _hook(self, path: str) -> _Hooked:
        hooked = self._unhooked(path)
        hooked.handle = hooked.module.register_forward_hook(hooked, with_kwargs=True)
        self._hooked[path] = hooked
        return hooked

    def _unhooked(self, path: str) -> _Hooked:
        module = self._module(path)
        return _Hooked(module, module is self._model.get_output_embeddings())

    def _module(self, path: str) -> nn.Module:
        """The module that computes at `path` now; one that fused layers hide is still called by its first name."""
        try:
            found: nn.Module | None = self._model.get_submodule(path)
        except AttributeError:
            found = self._first_modules[path]()
        assert found is not None, path
        return found

    def _addition(self, adapter: Adapter, path: str, hooked: _Hooked) -> Addition | RouterAddition:
        module, device = hooked.module, _device(hooked.module, self._model)
        if path in adapter.routers or path in adapter.router_biases:
            return RouterAddition(adapter.routers.get(path), adapter.router_biases.get(path), module)
        experts = {at.rpartition(".")[2]: pair for at, pair in adapter.experts.items() if at.rpartition(".")[0] == path}
        if experts:
            return ExpertsAddition(experts, device)
        if module is self._model.get_input_embeddings():
            return EmbeddingAddition(adapter, path, device, self._dtype)
        if hooked.is_output:
            return OutputAddition(adapter, path, device, self._dtype)
        return LinearAddition(adapter, path, device)


def _modules(adapter: Adapter, paths: Collection[str] | None) -> list[str]:
    """The modules that `adapter` changes, of `paths` if given: an expert's matrix stands for its module."""
    wanted = adapter.paths if paths is None else adapter.paths & frozenset(paths)
    matrices = {path for path in wanted if path in adapter.experts}
    return sorted({path.rpartition(".")[0] for path in matrices} | (wanted - matrices))


def _device(module: nn.Module, model: Any) -> torch.device:
    """Where the module computes; layers over packed weights may have no parameter."""
    tensors = (each for each in (*module.parameters(), *module.buffers()) if not each.is_meta)
    first = next(tensors, None)
    device: torch.device = model.device if first is None else first.device
    return device
