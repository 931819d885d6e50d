"""Installs the pretended GPUs in torch for the length of a `with` block."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._device import _device_constructors

from handler.kernels.cuda import layer_kernels
from handler.linears import linear
from tests.support.pretend_cuda.dispatch import Dispatcher
from tests.support.pretend_cuda.driver import PretendDriver, PretendNvrtc
from tests.support.pretend_cuda.gpus import Gpus
from tests.support.pretend_cuda.graphs import CUDAGraph, Stream, Streams, graph
from tests.support.pretend_cuda.tensor import PretendTensor

_CASTS = {
    "float": torch.float32,
    "double": torch.float64,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "int": torch.int32,
    "long": torch.int64,
    "bool": torch.bool,
}


@contextlib.contextmanager
def pretend_cuda(gpus: Gpus) -> Iterator[Gpus]:
    """torch finds `gpus` inside the block. Models move there by `model.to("cuda", dtype)`, as on a real one."""
    torch._C._ensureCUDADeviceGuardSet()  # type: ignore[attr-defined]
    # torch remembers what it finds at the first call, and would take `torch.tensor` as patched below for good: models
    # made on the meta device then never get their rotary frequencies.
    _device_constructors()
    dispatcher = Dispatcher(gpus)
    PretendTensor.dispatcher = dispatcher
    CUDAGraph.gpus = Stream.gpus = gpus
    graph.active = graph.default_stream = graph.captured_on = None
    graph.streams = Streams()
    with pytest.MonkeyPatch.context() as patch:
        _patch_cuda(patch, gpus)
        _patch_tensors(patch, dispatcher)
        _patch_threads(patch, dispatcher)
        patch.setattr(linear, "ORDINARY", linear.ORDINARY | {PretendTensor})
        patch.setattr(layer_kernels, "open_nvrtc", lambda cuda: PretendNvrtc())
        patch.setattr(layer_kernels, "open_driver", lambda: PretendDriver(dispatcher))
        # Autograd asks torch for a device guard, which a build without CUDA has not.
        with dispatcher, torch.no_grad():
            yield gpus


def _patch_cuda(patch: pytest.MonkeyPatch, gpus: Gpus) -> None:
    def properties(device: object = None) -> SimpleNamespace:
        found = gpus.gpu(device)
        return SimpleNamespace(
            name=found.name,
            major=found.capability[0],
            minor=found.capability[1],
            total_memory=found.total,
            multi_processor_count=100,
        )

    def mem_get_info(device: object = None) -> tuple[int, int]:
        return gpus.entered(device).free, gpus.gpu(device).total

    def empty_cache() -> None:
        for each in gpus.all:
            each.cached = 0

    def set_device(device: object) -> None:
        gpus.entered(device)
        gpus.current = gpus.device(device).index

    def supports_bf16(including_emulation: bool = True) -> bool:
        return including_emulation or gpus.gpu().capability >= (8, 0)

    replaced: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: len(gpus.all),
        "current_device": lambda: gpus.current,
        "set_device": set_device,
        "get_device_capability": lambda device=None: gpus.gpu(device).capability,
        "get_device_properties": properties,
        "get_device_name": lambda device=None: gpus.gpu(device).name,
        "is_bf16_supported": supports_bf16,
        "mem_get_info": mem_get_info,
        "memory_allocated": lambda device=None: gpus.gpu(device).allocated,
        "memory_reserved": lambda device=None: gpus.gpu(device).allocated + gpus.gpu(device).cached,
        "max_memory_allocated": lambda device=None: gpus.gpu(device).most_allocated,
        "max_memory_reserved": lambda device=None: gpus.gpu(device).most_reserved,
        "reset_peak_memory_stats": lambda device=None: gpus.gpu(device).reset_peak(),
        "empty_cache": empty_cache,
        "synchronize": lambda device=None: gpus.wait("synchronize"),
        "Stream": Stream,
        "CUDAGraph": CUDAGraph,
        "graph": graph,
        "current_stream": graph.streams.current,
        "stream": graph.streams.entered,
        "graph_pool_handle": lambda: (0, 0),
    }
    for name, value in replaced.items():
        patch.setattr(torch.cuda, name, value)


def _patch_tensors(patch: pytest.MonkeyPatch, dispatcher: Dispatcher) -> None:
    gpus, make_tensor = dispatcher.gpus, torch.tensor

    def tensor(data: Any, *, dtype: Any = None, device: Any = None, **options: Any) -> Tensor:
        place = _device(gpus, _default_device() if device is None else device)
        if place.type != "cuda":
            return make_tensor(data, dtype=dtype, device=place, **options)
        return torch.ops.aten._to_copy(make_tensor(data, dtype=dtype, device="cpu", **options), device=place)

    def to(self: Tensor, *args: Any, **options: Any) -> Tensor:
        return _to(gpus, self, args, options)

    def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
        if isinstance(data, Tensor):
            return _to(gpus, data, (), {"dtype": dtype, "device": device})
        return tensor(data, dtype=dtype, device=device)

    patch.setattr(torch, "tensor", tensor)
    patch.setattr(torch, "as_tensor", as_tensor)
    patch.setattr(Tensor, "to", to)
    patch.setattr(Tensor, "cpu", lambda self, **_: to(self, "cpu"))
    patch.setattr(Tensor, "cuda", lambda self, device=None, **_: to(self, gpus.device(device)))
    patch.setattr(
        Tensor, "copy_", lambda self, other, non_blocking=False: torch.ops.aten.copy_(self, other, non_blocking)
    )
    patch.setattr(Tensor, "pin_memory", _pin)
    for name, dtype in _CASTS.items():
        patch.setattr(Tensor, name, _cast(to, dtype))
    patch.setattr(nn.Module, "to", _module_to(dispatcher, nn.Module.to))


def _patch_threads(patch: pytest.MonkeyPatch, dispatcher: Dispatcher) -> None:
    """A dispatch mode belongs to one thread; transformers loads weights in others."""
    original = threading.Thread.run

    def run(self: threading.Thread) -> None:
        with dispatcher, torch.no_grad():
            original(self)

    patch.setattr(threading.Thread, "run", run)


def _default_device() -> torch.device:
    """What `with torch.device(...)` says; torch asks that of its own functions only."""
    modes = torch.overrides._get_current_function_mode_stack()
    contexts = [mode for mode in modes if isinstance(mode, torch.utils._device.DeviceContext)]
    return contexts[-1].device if contexts else torch.device("cpu")


def _device(gpus: Gpus, device: Any) -> torch.device:
    found = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return gpus.device(found) if found.type == "cuda" else found


def _to(gpus: Gpus, tensor: Tensor, args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    device, dtype, non_blocking = options.get("device"), options.get("dtype"), options.get("non_blocking", False)
    for each in args:
        if isinstance(each, Tensor):
            device, dtype = each.device, each.dtype
        elif isinstance(each, torch.dtype):
            dtype = each
        elif isinstance(each, bool):
            non_blocking = each
        elif each is not None:
            device = each
    place = tensor.device if device is None else _device(gpus, device)
    dtype = dtype or tensor.dtype
    if place == tensor.device and dtype == tensor.dtype and not options.get("copy", False):
        return tensor
    return torch.ops.aten._to_copy(tensor, dtype=dtype, device=place, non_blocking=non_blocking)


def _pin(tensor: Tensor, *_: Any) -> Tensor:
    pinned = tensor.clone()
    pinned.pretended_pin = True  # type: ignore[attr-defined]
    return pinned


def _cast(to: Callable[..., Tensor], dtype: torch.dtype) -> Callable[..., Tensor]:
    return lambda self, **_: to(self, dtype=dtype)


def _module_to(dispatcher: Dispatcher, original: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """`Module.to` that replaces parameters where a GPU is named: torch swaps their data, which a subclass refuses."""

    def to(module: nn.Module, *args: Any, **options: Any) -> nn.Module:
        device = options.get("device", next((arg for arg in args if not isinstance(arg, torch.dtype | bool)), None))
        if device is None or _device(dispatcher.gpus, device).type != "cuda":
            return original(module, *args, **options)
        dtype = options.get("dtype", next((arg for arg in args if isinstance(arg, torch.dtype)), None))
        move(dispatcher, module, dtype, lambda _: _device(dispatcher.gpus, device))
        return module

    return to


def move(
    dispatcher: Dispatcher, model: nn.Module, dtype: torch.dtype | None, place: Callable[[str], torch.device]
) -> None:
    """Put every parameter and buffer on the device that `place` says for its name; tied ones stay tied."""
    seen: dict[int, Tensor] = {}
    for prefix, module in model.named_modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in list(store.items()):
                if tensor is None or isinstance(tensor, PretendTensor):
                    continue
                if id(tensor) not in seen:
                    seen[id(tensor)] = _moved(dispatcher, tensor, dtype, place(f"{prefix}.{name}"))
                store[name] = seen[id(tensor)]  # type: ignore[index]


def _moved(dispatcher: Dispatcher, tensor: Tensor, dtype: torch.dtype | None, device: torch.device) -> Tensor:
    numbers = tensor.detach()
    if dtype is not None and numbers.is_floating_point():
        numbers = numbers.to(dtype)
    found = dispatcher.place(numbers, device)
    return nn.Parameter(found, requires_grad=False) if isinstance(tensor, nn.Parameter) else found
