"""What a test may need and a machine may lack. Each need is named once; a test says `@pytest.mark.needs("amx")`.

`tests/support/skips.py` lists what was skipped, by kind, and fails CI for skips of any other kind.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest


class Kind(Enum):
    """Why a test may be skipped; the value heads the list in pytest's summary."""

    HARDWARE = "for want of hardware"
    ELSEWHERE = "to be run in another environment"
    INSTALLATION = "for want of a program that `make install` installs (CI fails)"


_ROOT = Path(__file__).resolve().parents[2]
ALLOWED_IN_CI = {Kind.HARDWARE, Kind.ELSEWHERE}


@dataclass(frozen=True)
class Need:
    """`text` names what is needed and, where another environment has it, how the test is run there."""

    kind: Kind
    text: str
    is_met: Callable[[], bool]


@functools.cache
def processor_flags() -> frozenset[str]:
    """The first processor's flags (x86) or features (ARM) as Linux lists them; empty on other systems.

    The code under test is not asked: a kernel that wrongly calls itself unusable must fail its tests, not skip them.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    first = next((line for line in lines if line.startswith(("flags", "Features"))), ":")
    return frozenset(first.partition(":")[2].split())


def _has_flags(*names: str) -> Callable[[], bool]:
    return lambda: processor_flags() >= set(names)


def _has_amx() -> bool:
    """Linux grants the tile registers on request only."""
    if not processor_flags() >= {"avx512_bf16", "amx_tile", "amx_bf16"}:
        return False
    import torch

    return bool(torch.cpu._init_amx())


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _has_sdk_2() -> bool:
    from sagemaker_deploy.sdk_v2 import sdk_major

    return sdk_major() == 2


def _has_hadolint() -> bool:
    from tools.image_check.lint import hadolint_program

    return bool(hadolint_program())


def _has_chromium() -> bool:
    from tests.support.chromium import chromium_program

    return chromium_program() is not None


def _has_clients() -> bool:
    from tools.client_locks import CLIENTS

    return all((_ROOT / ".venv-clients" / name / ".installed").is_file() for name in CLIENTS)


def _has_agents() -> bool:
    names = [path.parent.name for path in _ROOT.glob("requirements/agents/*/package.json")]
    return all((_ROOT / ".venv-clients" / "node" / name / ".installed").is_file() for name in names)


def _has_cpu_quota() -> bool:
    from bench.neighbours import Quotas

    try:
        Quotas().close()
    except OSError:
        return False
    return True


def _has_nvrtc() -> bool:
    return any(next(Path(entry).glob("nvidia/*/lib/libnvrtc.so.*"), None) for entry in sys.path)


def _has_module(name: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(name) is not None


def _has_program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name) is not None


NEEDS = {
    "cuda": Need(Kind.HARDWARE, "a CUDA device", _has_cuda),
    "avx512": Need(
        Kind.HARDWARE,
        "a processor on which oneDNN multiplies bfloat16 (AVX-512); float32 is served on others",
        lambda: processor_flags() >= {"avx512bw", "avx512vl", "avx512dq"} or "bf16" in processor_flags(),
    ),
    "avx512_bf16": Need(
        Kind.HARDWARE, "a processor with AVX-512's bfloat16 dot product", _has_flags("avx512bw", "avx512_bf16")
    ),
    "avx512_vnni": Need(
        Kind.HARDWARE,
        "a processor with AVX-512's dot products of bytes and bfloat16",
        _has_flags("avx512bw", "avx512_bf16", "avx512_vnni"),
    ),
    "amx": Need(Kind.HARDWARE, "a processor with a matrix unit (AMX)", _has_amx),
    "sdk2": Need(Kind.ELSEWHERE, "version 2 of the SageMaker SDK: `make test-deploy`", _has_sdk_2),
    "torch": Need(Kind.ELSEWHERE, "the server's packages, absent beside an SDK: `make test`", _has_module("torch")),
    "openai": Need(Kind.ELSEWHERE, "OpenAI's client, absent beside an SDK: `make test`", _has_module("openai")),
    "clients": Need(Kind.ELSEWHERE, "the newest clients, each in its environment: `make test-clients`", _has_clients),
    "chromium": Need(Kind.ELSEWHERE, "Chromium: `make test-browser`, which installs it", _has_chromium),
    "agents": Need(Kind.ELSEWHERE, "the newest command-line agents, from npm: `make test-agents`", _has_agents),
    "terraform": Need(
        Kind.ELSEWHERE, "Terraform: job `deploy` of .github/workflows/check.yml", _has_program("terraform")
    ),
    "terraform_plugins": Need(
        Kind.ELSEWHERE,
        "Terraform's AWS provider in TERRAFORM_PLUGIN_DIR: job `deploy` of .github/workflows/check.yml",
        lambda: "TERRAFORM_PLUGIN_DIR" in os.environ and shutil.which("terraform") is not None,
    ),
    "root": Need(
        Kind.ELSEWHERE, "root and `unshare`", lambda: os.geteuid() == 0 and shutil.which("unshare") is not None
    ),
    "cpu_quota": Need(Kind.ELSEWHERE, "root and control groups of CPU time that can be made", _has_cpu_quota),
    "g++": Need(Kind.ELSEWHERE, "a compiler for this machine (g++): CI's machines have it", _has_program("g++")),
    "nvrtc": Need(Kind.INSTALLATION, "NVIDIA's run-time compiler: requirements/dev.txt", _has_nvrtc),
    "hadolint": Need(Kind.INSTALLATION, "hadolint: requirements/image-tools.txt", _has_hadolint),
}


def reason(name: str) -> str:
    """The text of a skip; `kind_of` reads it back."""
    return f"needs {name}: {NEEDS[name].text}"


def kind_of(text: str) -> Kind | None:
    """The kind of a skip with this reason; None for one that names no need."""
    return next((need.kind for name, need in NEEDS.items() if text == reason(name)), None)


def require(name: str) -> None:
    """Skip the running test or fixture unless the machine has what `name` stands for. Raises KeyError."""
    if not NEEDS[name].is_met():
        pytest.skip(reason(name))
