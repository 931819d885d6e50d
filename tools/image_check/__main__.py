"""`python -m tools.image_check`: lint the Dockerfile, replay it without Docker, run the result. Exit code 0: all holds.

Needs root on Debian with debootstrap. docs/image.md says what is proven and what is not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.image_check import dockerfile, lint
from tools.image_check.inside import ROOT, Job, command

_NEEDED = ("debootstrap", "unshare", "mount", "tar", "gzip")
_MODEL = (
    "import sys; from pathlib import Path; from tests.support.tiny_models import save; save('llama', Path(sys.argv[1]))"
)


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.image_check", description=__doc__)
    parser.add_argument("--lint", action="store_true", help="check only the Dockerfile's text")
    parser.add_argument("--base", default="", help="an existing root directory, instead of debootstrap")
    parser.add_argument("--compress", action="store_true", help="also measure compressed layers (minutes)")
    parser.add_argument("--scratch", default=None, help="where to build; about 6 GB (default: the temporary directory)")
    options = parser.parse_args(arguments)
    faults = lint.check(dockerfile.read(ROOT / "Dockerfile")) + lint.hadolint(ROOT / "Dockerfile")
    for fault in faults:
        sys.stdout.write(f"Dockerfile: {fault}\n")
    if faults or options.lint:
        return 1 if faults else 0
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        sys.stderr.write(f"image-check needs root and {', '.join(missing or _NEEDED)}\n")
        return 2
    return _replay(options.base, options.scratch, compress=options.compress)


def _replay(base: str, scratch: str | None, *, compress: bool) -> int:
    """Replay in a temporary directory. All mounts are made in a child's mount namespace, so none is visible here."""
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="image-check-", dir=scratch, ignore_cleanup_errors=True) as directory:
        model = Path(directory, "model")
        subprocess.run([sys.executable, "-c", _MODEL, str(model)], cwd=ROOT, check=True)
        for file in model.iterdir():
            # safetensors creates files with mode 0600; SageMaker mounts readable ones.
            file.chmod(0o644)
        job = Job(scratch=directory, model=str(model), base=base, compress=compress)
        process = subprocess.Popen(command(job), cwd=ROOT)
        try:
            code = process.wait()
        finally:
            process.kill()
            process.wait()
    verdict = "green" if code == 0 else "RED"
    sys.stdout.write(f"image-check: {verdict} after {time.monotonic() - started:.0f} s\n")
    return 0 if code == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
