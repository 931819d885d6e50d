"""Compiles the products that a .gguf file needs, in a process of its own, while the engine still reads the file.

numba holds the interpreter while it compiles: a thread of the engine would take the time from what it runs beside.
`python -m handler.formats.gguf.kernels_ahead CACHE_DIR TYPE...` is that process. The engine takes what it finds in the
cache and waits for what is being compiled (`kernels/compiler.py`). Imports no torch where the engine calls it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import handler
from handler.seam.lifeline import die_with_parent
from handler.seam.source_digest import source_digest

logger = logging.getLogger(__name__)

# Outputs and inputs of the weights that kernels are compiled for. Any number of either has the same kernel.
_SHAPE = (64, 256)
# Smaller files are read before the process has imported what it needs.
_LEAST_BYTES = 1 << 24
# A byte that blocks are filled with: in each type scales are above 0, and no minimum is a multiple of its scale.
_FILL = 0x11


def compile_ahead(tensors: Iterable[tuple[str, int]], cache_dir: Path) -> None:
    """Start the process for tensors of these ggml types and bytes, unless it has done all before, or numba is missing.

    Nothing is done for a small file.
    """
    held = list(tensors)
    wanted = sorted({kind for kind, _ in held})
    if sum(size for _, size in held) < _LEAST_BYTES:
        return
    if importlib.util.find_spec("numba") is None or _done(wanted, cache_dir).exists():
        return
    command = [sys.executable, "-m", "handler.formats.gguf.kernels_ahead", str(cache_dir), *wanted]
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    process = subprocess.Popen(command, **quiet)  # type: ignore[call-overload]  # noqa: S603 - our own module
    threading.Thread(target=_wait, args=(process,), name="kernels-ahead", daemon=True).start()


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Whoever starts a process has to wait for it, or its entry stays."""
    status = process.wait()
    if status:
        logger.warning("the process that compiles kernels ahead ended with status %d; the engine compiles them", status)


def _done(kinds: list[str], cache_dir: Path) -> Path:
    """A file that exists once kernels of these types are in the cache: of this code and this processor."""
    sources = sorted(Path(handler.__path__[0], "kernels").rglob("*.py"))
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    of_both = f"{source_digest([*sources, Path(__file__)])}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"
    return cache_dir / "kernels" / f"{'-'.join(kinds)}-{of_both}.done"


def main(cache_dir: Path, kinds: list[str]) -> None:
    """Compile one kernel after the other into the cache, but for those that another process compiles."""
    import torch

    from handler.formats.gguf.block_types import BLOCK_TYPES
    from handler.formats.gguf.tensors import quantised
    from handler.kernels.compiler import Taken, leave_to_others, use_cache_dir
    from handler.linears.choice import computes_blocks, quantised_layer

    use_cache_dir(cache_dir)
    leave_to_others()
    if computes_blocks(torch.bfloat16):
        torch.set_num_threads(1)
        for kind in kinds:
            if kind in BLOCK_TYPES:
                weight = quantised(kind, _SHAPE, lambda _, count: torch.full((count,), _FILL, dtype=torch.uint8))
                try:
                    quantised_layer(weight, None, torch.bfloat16)
                except Taken:
                    continue
    if cache_dir.is_dir():  # of a cache that is gone nothing is made again
        done = _done(kinds, cache_dir)
        done.parent.mkdir(exist_ok=True)
        done.touch()


if __name__ == "__main__":
    die_with_parent(signal.SIGKILL)
    main(Path(sys.argv[1]), sys.argv[2:])
