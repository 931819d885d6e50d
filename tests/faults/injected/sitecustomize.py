"""On PYTHONPATH of a server under test: makes its engine fail inside a step. No other process is touched.

FAULT names what happens when a prompt holds FAULT_TOKEN: `segv` reads address 0, `hang` never returns, `raise` raises.
`driver` instead makes torch say what it says of a CUDA driver that is too old.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import time
import warnings
from types import ModuleType
from typing import Any

_TARGET = "handler.runners.choice"
_DRIVER = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver by downloading and installing a new version (Triggered internally at CUDAFunctions.cpp:119.)"
)


def _happen(fault: str) -> None:
    if fault == "segv":
        import ctypes

        ctypes.string_at(0)
    elif fault == "hang":
        time.sleep(1e6)
    elif fault == "raise":
        raise ValueError("injected")


def _wrap(module: ModuleType) -> None:
    fault, token = os.environ["FAULT"], int(os.environ["FAULT_TOKEN"])
    if fault == "driver":
        import torch

        def is_available() -> bool:
            warnings.warn(_DRIVER, UserWarning, stacklevel=2)
            return False

        torch.cuda.is_available = is_available
        return
    choose = module.choose_runner

    def choose_runner(*args: Any) -> Any:
        runner, limits = choose(*args)
        run = runner.run

        def faulty_run(batch: Any) -> Any:
            if any(token in item.seq.request.prompt_token_ids for item in batch.items):
                _happen(fault)
            return run(batch)

        runner.run = faulty_run
        return runner, limits

    module.choose_runner = choose_runner


class _Loader(importlib.abc.Loader):
    def __init__(self, inner: importlib.abc.Loader) -> None:
        self._inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        _wrap(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != _TARGET:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


if "FAULT" in os.environ:
    sys.meta_path.insert(0, _Finder())
