"""Finds what a CUDA graph cannot hold: operations whose result, or shape, the host must wait for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_SYNCING = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    "aten::equal",
    "aten::allclose",
    "aten::nonzero",
    "aten::nonzero_numpy",
    "aten::argwhere",
    "aten::masked_select",
    "aten::bincount",
    "aten::_unique",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::multinomial",
    "aten::repeat_interleave",
}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_COMPOSITE = "CompositeImplicitAutograd"
_COPYING = {"aten::copy_", "aten::_to_copy", "aten::to"}


class HostSync(RuntimeError):
    """An operation made the host wait for the device."""


class SyncGuard(TorchDispatchMode):
    """Raises HostSync at the first such operation. Says the same on CPU, but for `tolist`, which dispatches nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        if name.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE):
            # Under inference mode composite operations arrive whole. Whether they wait depends on their parts.
            with self:
                return func.decompose(*args, **(kwargs or {}))
        if name in _SYNCING and not (kwargs or {}).get("output_size"):
            raise HostSync(name)
        if name in _INDEXING and any(_is_mask(index) for index in args[1]):
            raise HostSync(f"{name} with a mask")
        out = func(*args, **(kwargs or {}))
        if name in _COPYING and _to_host(args, out):
            raise HostSync(f"{name} to the host")
        return out


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in {torch.bool, torch.uint8}


def _to_host(args: tuple[Any, ...], out: Any) -> bool:
    sources = [arg for arg in args if isinstance(arg, Tensor)]
    return isinstance(out, Tensor) and out.device.type == "cpu" and any(arg.is_cuda for arg in sources)


def host_sync(forward: Callable[[], object]) -> str | None:
    """The operation in `forward` that a CUDA graph cannot hold, or None."""
    try:
        with SyncGuard():
            forward()
    except HostSync as exc:
        return str(exc)
    return None
