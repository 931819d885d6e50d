"""Kernels are compiled when the engine starts and kept in the cache directory for the next start."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

_DTYPES = (torch.bfloat16, torch.float32)


def usable(dtype: torch.dtype) -> bool:
    """True if there are kernels for `dtype`: numba is installed. It is no part of the CUDA image."""
    return dtype in _DTYPES and importlib.util.find_spec("numba") is not None


def multiplies_bfloat16() -> bool:
    """True if the processor has AVX-512's bfloat16 dot product."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def keep_in(cache_dir: Path) -> None:
    """Where compiled kernels are kept. Call before the first is compiled.

    numba looks at the date of the file that defines a kernel only; here any change to the package starts afresh.
    """
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_dir / f"kernels-{hashlib.sha256(sources).hexdigest()[:12]}"))


def compile_kernel(function: Callable[[Any], None]) -> Any:
    """`function` of one argument, the address of its block of arguments, as a C function."""
    from numba import cfunc

    from handler.native.memory import ARGUMENTS, FAST_MATH

    options: dict[str, Any] = {"fastmath": FAST_MATH, "error_model": "numpy"}
    try:
        return cfunc(ARGUMENTS, cache=True, **options)(function)
    except Exception as exc:  # noqa: BLE001 - no place to write, or a damaged file: any kind, by numba's internals
        logger.warning("kernels are not kept: %s", " ".join(str(exc).split())[:200])
        return cfunc(ARGUMENTS, **options)(function)
