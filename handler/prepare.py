"""`python -m handler.prepare CACHE_DIR`: convert the bundled model and pack its weights, unless that has been done.

The engine would do the same at its first start; preparing beforehand keeps that start short. Progress is shown.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from handler.model.gguf_model import bundled_gguf, converted
from handler.seam.config import EngineConfig
from handler.seam.errors import StartupError


def main(cache_dir: Path) -> int:
    """Convert the bundled model into `cache_dir` unless it is there. Returns the exit code."""
    started = time.monotonic()
    is_new = False

    def progress(permille: int, text: str) -> None:
        nonlocal is_new
        is_new = True
        elapsed_s = time.monotonic() - started
        sys.stderr.write(f"Preparing the bundled model: {permille // 10:3d} % ({elapsed_s:.0f} s) {text}\n")

    try:
        directory = converted(bundled_gguf(), cache_dir, progress)
        if is_new:
            _pack(directory, cache_dir)
    except StartupError as exc:
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code
    return 0


def _pack(directory: Path, cache_dir: Path) -> None:
    """Load the model once, which keeps its weights in the layout of this machine. Raises StartupError."""
    from handler.model.loader import load

    load(EngineConfig(device="cpu", cache_dir=str(cache_dir)), directory, lambda *_: None)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
