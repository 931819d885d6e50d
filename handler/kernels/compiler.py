"""Compile kernels when the engine starts, and cache the object code for the next start.

numba's own cache holds pickles, which this server never opens. This cache holds object code and its symbol names. Its
key digests the package's source, the integers that the kernel captures, and the processor.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec
import torch

from handler.seam.atomic_file import atomic_write

logger = logging.getLogger(__name__)

_DTYPES = (torch.bfloat16, torch.float32)
_DIGEST_BYTES = 32
# Seconds between tries of a lock, and until a kernel that another process compiles is compiled here too.
_POLL_S, _PATIENCE_S = 0.1, 60.0


class _CachedKernel(msgspec.Struct, frozen=True, array_like=True):
    """One compiled kernel: names of its library and of its C function, object code, LLVM bitcode."""

    library: str
    function: str
    objects: bytes
    bitcode: bytes


class _Cache:
    """Where compiled kernels are cached; nowhere until `use_cache_dir`. `waits` for those that others compile."""

    directory: Path | None = None
    waits = True


class Taken(Exception):
    """Another process compiles the kernel, and this one need not have it."""


_CACHE = _Cache()


def usable(dtype: torch.dtype) -> bool:
    """True if there are kernels for `dtype` and numba is installed. The CUDA image does not have it."""
    return dtype in _DTYPES and importlib.util.find_spec("numba") is not None


def multiplies_bfloat16() -> bool:
    """True if the processor has AVX-512's bfloat16 dot product."""
    return bool(torch.cpu._is_avx512_bf16_supported())


@functools.cache
def multiplies_bytes() -> bool:
    """True if the processor has AVX-512's products of bytes (VNNI)."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return bool(features.get("avx512f") and features.get("avx512bw") and features.get("avx512vnni"))


@functools.cache
def multiplies_matrices() -> bool:
    """True if the processor multiplies bfloat16 matrices (AMX) and Linux lets this process do so."""
    if not (multiplies_bfloat16() and torch.cpu._is_amx_tile_supported()):
        return False
    from llvmlite import binding

    return bool(binding.get_host_cpu_features().get("amx-bf16")) and bool(torch.cpu._init_amx())


@functools.cache
def looks_up_bytes() -> bool:
    """True if the processor permutes bytes (AVX-512 VBMI). Of those that multiply bfloat16, Cooper Lake does not."""
    from llvmlite import binding

    return bool(binding.get_host_cpu_features().get("avx512vbmi"))


def use_cache_dir(cache_dir: Path) -> None:
    """Cache compiled kernels in `cache_dir / "kernels"` from now on."""
    _CACHE.directory = cache_dir / "kernels"


def leave_to_others() -> None:
    """Raise `Taken` from now on where another process compiles the kernel that is asked for."""
    _CACHE.waits = False


def compile_kernel(function: Callable[[Any], None]) -> int:
    """Compile `function` to a C function whose one argument is the address of its arguments; returns its address.

    `function` may capture only integers; with a cache directory, anything else raises TypeError. Of processes with one
    cache, one compiles a kernel and the others wait for it, a minute at most; raises Taken after `leave_to_others`.
    """
    if _CACHE.directory is None:
        return _compiled(function, None)
    path = _CACHE.directory / f"{_key(function)}.kernel"
    cached = _read(path)
    if cached is None:
        with _claimed(path):
            cached = _read(path, tells=False)
            if cached is None:
                return _compiled(function, path)
    return _load(cached)


@contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """Alone among the processes that compile the kernel at `path`, or with others if no lock can be had."""
    lock = path.with_suffix(".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("wb")
    except OSError:  # `_write` tells
        yield
        return
    with file:
        try:
            is_locked = _lock(file)
        except OSError:  # a file system without locks
            is_locked = False
        yield
        if is_locked:
            lock.unlink(missing_ok=True)


def _lock(file: IO[bytes]) -> bool:
    """True once `file` is locked, until the process ends, however it does; False if others hold it for too long.

    Raises OSError, and Taken after `leave_to_others`.
    """
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            if not _CACHE.waits:
                raise Taken from exc
        else:
            return True
        if time.monotonic() >= deadline_s:
            # Writes are atomic, so both may write the file.
            logger.warning(
                "another process holds %s for over %.0f s; the kernel is compiled here", file.name, _PATIENCE_S
            )
            return False
        time.sleep(_POLL_S)


def _compiled(function: Callable[[Any], None], path: Path | None) -> int:
    """Compile now, and cache at `path`."""
    from numba import cfunc

    from handler.kernels.primitives import ARGUMENTS, FAST_MATH

    compiled: Any = cfunc(ARGUMENTS, fastmath=FAST_MATH, error_model="numpy")(function)
    if path is not None:
        _write(path, compiled)
    _ALIVE.append(compiled)
    return int(compiled.address)


# Machine code lives as long as the objects that own it.
_ALIVE: list[Any] = []


def _key(function: Callable[[Any], None]) -> str:
    from llvmlite import binding

    captured = [cell.cell_contents for cell in function.__closure__ or ()]
    if not all(isinstance(value, int) for value in captured):
        raise TypeError(f"{function.__qualname__} may capture only integers: {captured}")
    features = binding.get_host_cpu_features().flatten()
    parts = (
        _source_digest(),
        function.__module__,
        function.__qualname__,
        captured,
        binding.get_host_cpu_name(),
        features,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@functools.cache
def _source_digest() -> str:
    import numba

    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py")))
    return hashlib.sha256(sources + numba.__version__.encode()).hexdigest()


def _load(cached: _CachedKernel) -> int:
    from numba.core.registry import cpu_target
    from numba.core.runtime import rtsys

    # Makes numba's own functions, which object code may call, known to LLVM.
    context = cpu_target.target_context
    rtsys.initialize(context)
    state = (cached.library, "object", (cached.objects, cached.bitcode))
    library = context.codegen().unserialize_library(state)
    _ALIVE.append(library)
    return int(library.get_pointer_to_function(cached.function))


def _read(path: Path, tells: bool = True) -> _CachedKernel | None:
    """The kernel at `path`, or None if it is missing or damaged; `tells` a damaged one to the log."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, encoded = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(encoded).digest() != digest:
        if tells:
            logger.warning("a cached kernel is damaged and is compiled again: %s", path.name)
        return None
    return msgspec.msgpack.decode(encoded, type=_CachedKernel)


def _write(path: Path, compiled: Any) -> None:
    """Cache the kernel atomically. If the directory is not writable, each start compiles again."""
    library, _, (objects, bitcode) = compiled._library.serialize_using_object_code()
    encoded = msgspec.msgpack.encode(_CachedKernel(library, compiled.native_name, objects, bitcode))
    try:
        with atomic_write(path) as scratch:
            scratch.write_bytes(hashlib.sha256(encoded).digest() + encoded)
    except OSError as exc:
        logger.warning("kernels are not cached: %s cannot be written: %s", path.parent, exc.strerror or exc)
