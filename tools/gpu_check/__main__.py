"""`python -m tools.gpu_check --bundle build/gpu-bundle --budget 540`: one JSON object a line, the most telling first.

Every step has a process and a time limit of its own; what does not fit the budget is left out, and a line says so. The
lines also go to `$OUT/gpu_check.jsonl`, and what the steps print to `$OUT/gpu_check.log`. Exit code 0: nothing is
wrong. Nothing outside a temporary folder changes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

from tools.gpu_check.bundle.unpack import unpack
from tools.gpu_check.isolation import run_isolated
from tools.gpu_check.lines import Lines

# A step that would get less is left out: it could not even make its model.
_LEAST_S = 8.0
# 8 of 32 layers of an 8B model, twice.
_CHECKPOINT_BYTES = 12 << 30


def main(arguments: list[str]) -> int:
    """Returns the exit code: 1 if a line is wrong."""
    options = _parsed(arguments)
    out = os.environ.get("OUT")
    folder = Path(out) if out else None
    lines = Lines(folder)
    # torch then counts GPUs without starting CUDA, after which no fork could use them.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    with _temporary(None) as packages, _temporary(_memory()) as scratch:
        log = (folder or Path(scratch)) / "gpu_check.log"
        if options.bundle is not None:
            unpack(options.bundle, Path(packages))
        _run(options, lines, Path(scratch), log)
        if lines.wrong and folder is None:
            sys.stderr.write(log.read_text(errors="replace")[-8000:])
    lines.finish()
    return 1 if lines.wrong else 0


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_check", description=__doc__)
    parser.add_argument("--bundle", type=Path, help="what `make gpu-bundle` made; without it, what is installed")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds for everything (default 540)")
    parser.add_argument("--steps", default="", help="some steps only, by name, with commas")
    parser.add_argument("--tiny", action="store_true", help="the smallest shapes; no speed is judged")
    return parser.parse_args(arguments)


def _temporary(where: Path | None) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="gpu-check-", dir=where, ignore_cleanup_errors=True)


def _memory() -> Path | None:
    """A file system in memory with room for a checkpoint, if there is one: a disk may be slow.

    Not for packages: it may forbid to run what lies there.
    """
    shared = Path("/dev/shm")  # noqa: S108 - a folder of its own is made there
    return shared if shared.is_dir() and shutil.disk_usage(shared).free > _CHECKPOINT_BYTES else None


def _run(options: argparse.Namespace, lines: Lines, scratch: Path, log: Path) -> None:
    # After the bundle is on the path, and before the first step: forked processes share what is imported here.
    from tools.gpu_check import varlen_shim
    from tools.gpu_check.plan import chosen
    from tools.gpu_check.setting import Setting

    steps = [(step, step.function) for step in chosen(options.steps)]
    is_shimmed = varlen_shim.is_needed()
    if is_shimmed:
        varlen_shim.install()
    setting = Setting(scratch, tiny=options.tiny, is_shimmed=is_shimmed)
    lines.add("start", {"what": "imports", "value": round(lines.seconds, 1), "unit": "s"})
    for step, function in steps:
        left = options.budget - lines.seconds
        if left < _LEAST_S:
            lines.add(step.name, {"what": "left out", "value": f"{left:.0f} s are left"})
            continue
        limit_s = left if options.tiny else min(step.seconds, left)
        reason = run_isolated(partial(function, setting), limit_s, partial(lines.add, step.name), log)
        if reason is not None:
            lines.add(step.name, {"what": "ended early", "value": reason, "ok": False})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
