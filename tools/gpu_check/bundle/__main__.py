"""`make gpu-bundle`: downloads wheels for a machine with a GPU and no network, cuts them and prints their sizes.

Wheels that are there already, of the same versions, are downloaded again only if pip wants to; pip's cache serves them.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from tools.gpu_check.bundle.choice import needed, pinned, pins, roots
from tools.gpu_check.bundle.cut import cut
from tools.gpu_check.bundle.description import Description

MAX_BYTES = 60 << 20
# pip matches a platform's number exactly.
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 24, 17)] + ["manylinux2014_x86_64"]


def download(names: list[str], python: str, directory: Path) -> None:
    """Fetch `names` (`name==version`) as wheels. Raises subprocess.CalledProcessError."""
    platforms = [option for platform in _PLATFORMS for option in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms]
    subprocess.run([*command, "--dest", str(directory), *names], check=True)


def sizes(directory: Path) -> dict[str, int]:
    """Bytes of each wheel, the largest first."""
    found = {path.name: path.stat().st_size for path in directory.glob("*.whl")}
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def too_large(found: dict[str, int]) -> str | None:
    """What is wrong with a bundle of these sizes, or None."""
    total = sum(found.values())
    if total <= MAX_BYTES:
        return None
    return f"the bundle has {total / 2**20:.1f} MiB; at most {MAX_BYTES >> 20} MiB may travel to the machine"


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_check.bundle", description=__doc__)
    parser.add_argument("--python", default="3.12", help="the machine's Python (default 3.12)")
    parser.add_argument("--cuda", default="130", help="the CUDA of the machine's torch, without dot (default 130)")
    parser.add_argument("--out", type=Path, default=Path("build/gpu-bundle"), help="where the wheels go")
    options = parser.parse_args(arguments)
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    download(pinned(list(needed(roots(), options.python)), pins()), options.python, options.out)
    for wheel in options.out.glob("*.whl"):
        cut(wheel, options.cuda)
    Description(options.python, options.cuda).write(options.out)
    found = sizes(options.out)
    sys.stdout.write("".join(f"{size / 2**20:7.2f} MiB  {name}\n" for name, size in found.items()))
    sys.stdout.write(f"{sum(found.values()) / 2**20:7.2f} MiB  in {options.out}\n")
    problem = too_large(found)
    if problem:
        sys.stderr.write(f"{problem}\n")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
