"""`python -m handler.prepare CACHE_DIR`: convert the bundled model, showing progress, unless that has been done.

The engine would do the same at its first start; preparing beforehand keeps that start short.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from handler.model.gguf_model import bundled_gguf, converted
from handler.seam.errors import StartupError


def main(cache_dir: Path) -> int:
    """Convert the bundled model into `cache_dir` unless it is there. Returns the exit code."""
    started = time.monotonic()

    def progress(permille: int, text: str) -> None:
        elapsed_s = time.monotonic() - started
        sys.stderr.write(f"Preparing the bundled model: {permille // 10:3d} % ({elapsed_s:.0f} s) {text}\n")

    try:
        converted(bundled_gguf(), cache_dir, progress)
    except StartupError as exc:
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
