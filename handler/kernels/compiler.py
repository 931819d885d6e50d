"""Kernels are compiled when the engine starts; what the compiler made is kept for the next start.

numba's own cache holds pickles, which this server opens nowhere. Kept here are the object code and the names in it,
under a digest of the package's source, of what the kernel was made for, and of the processor.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from handler.seam.atomic_file import atomic_write

logger = logging.getLogger(__name__)

_DTYPES = (torch.bfloat16, torch.float32)
_DIGEST_BYTES = 32


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """One compiled kernel: names of its library and of its C function, object code, and the code as LLVM keeps it."""

    library: str
    function: str
    objects: bytes
    bitcode: bytes


class _Place:
    """Where kernels are kept; nowhere until `keep_in`."""

    directory: Path | None = None


_PLACE = _Place()


def usable(dtype: torch.dtype) -> bool:
    """True if there are kernels for `dtype`: numba is installed. It is no part of the CUDA image."""
    return dtype in _DTYPES and importlib.util.find_spec("numba") is not None


def multiplies_bfloat16() -> bool:
    """True if the processor has AVX-512's bfloat16 dot product."""
    return bool(torch.cpu._is_avx512_bf16_supported())


@functools.cache
def multiplies_matrices() -> bool:
    """True if the processor multiplies matrices of bfloat16 (AMX) and the kernel lets this process do so."""
    if not (multiplies_bfloat16() and torch.cpu._is_amx_tile_supported()):
        return False
    from llvmlite import binding

    return bool(binding.get_host_cpu_features().get("amx-bf16")) and bool(torch.cpu._init_amx())


def keep_in(cache_dir: Path) -> None:
    """Where compiled kernels are kept from now on."""
    _PLACE.directory = cache_dir / "kernels"


def compile_kernel(function: Callable[[Any], None]) -> int:
    """The address of a C function that does what `function` does, with one argument: the address of its arguments.

    What `function` takes from around it must be numbers.
    """
    path = None if _PLACE.directory is None else _PLACE.directory / f"{_key(function)}.kernel"
    kept = None if path is None else _read(path)
    if kept is not None:
        return _load(kept)
    from numba import cfunc

    from handler.kernels.primitives import ARGUMENTS, FAST_MATH

    compiled: Any = cfunc(ARGUMENTS, fastmath=FAST_MATH, error_model="numpy")(function)
    if path is not None:
        _write(path, compiled)
    _ALIVE.append(compiled)
    return int(compiled.address)


# Code lives as long as the objects that made it.
_ALIVE: list[Any] = []


def _key(function: Callable[[Any], None]) -> str:
    from llvmlite import binding

    around = [cell.cell_contents for cell in function.__closure__ or ()]
    if not all(isinstance(value, int) for value in around):
        raise TypeError(f"{function.__qualname__} takes more than numbers from around it: {around}")
    features = binding.get_host_cpu_features().flatten()
    parts = (
        _source_digest(),
        function.__module__,
        function.__qualname__,
        around,
        binding.get_host_cpu_name(),
        features,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@functools.cache
def _source_digest() -> str:
    import numba

    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py")))
    return hashlib.sha256(sources + numba.__version__.encode()).hexdigest()


def _load(kept: _Kept) -> int:
    from numba.core.registry import cpu_target
    from numba.core.runtime import rtsys

    # The names of numba's own functions, which object code may call, are known to LLVM only after this.
    context = cpu_target.target_context
    rtsys.initialize(context)
    state = (kept.library, "object", (kept.objects, kept.bitcode))
    library = context.codegen().unserialize_library(state)
    _ALIVE.append(library)
    return int(library.get_pointer_to_function(kept.function))


def _read(path: Path) -> _Kept | None:
    """What is kept there, if it is whole."""
    try:
        held = path.read_bytes()
    except OSError:
        return None
    digest, packed = held[:_DIGEST_BYTES], held[_DIGEST_BYTES:]
    if hashlib.sha256(packed).digest() != digest:
        logger.warning("a kept kernel is damaged and is compiled again: %s", path.name)
        return None
    return msgspec.msgpack.decode(packed, type=_Kept)


def _write(path: Path, compiled: Any) -> None:
    """Keep it, whole or not at all. A place that cannot be written costs each start the time to compile."""
    library, _, (objects, bitcode) = compiled._library.serialize_using_object_code()
    packed = msgspec.msgpack.encode(_Kept(library, compiled.native_name, objects, bitcode))
    try:
        with atomic_write(path) as scratch:
            scratch.write_bytes(hashlib.sha256(packed).digest() + packed)
    except OSError as exc:
        logger.warning("kernels are not kept: %s cannot be written: %s", path.parent, exc.strerror or exc)
