"""What the machine is, and its ceilings: memory bandwidth, matrix products, a launch, a wait of the host."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

import torch

from tools.gpu_check import expected
from tools.gpu_check.lines import Line, fact
from tools.gpu_check.setting import Setting

_PACKAGES = ("transformers", "bitsandbytes", "accelerate", "numpy", "triton")


def machine(setting: Setting) -> Iterator[Line]:
    """Versions first: they say how to read all that follows."""
    found = torch.cuda.get_device_properties(0)
    yield fact("gpu", found.name, capability=[found.major, found.minor], memory_gb=round(found.total_memory / 1e9, 1))
    yield fact("python", platform.python_version(), torch=torch.__version__, cuda=torch.version.cuda)
    yield fact("packages", {name: _version(name) for name in _PACKAGES})
    yield fact("paged attention", "pages copied for the kernel" if setting.is_shimmed else "torch's own")
    yield from _ceilings(setting)
    small = torch.zeros(8, device="cuda")
    launches = setting.pick(2000, 10)
    seconds = setting.seconds_of(lambda: small.add_(1), launches)
    yield setting.speed("launch", 1e6 * seconds, "us", expected.LAUNCH_US)
    seconds = setting.seconds_of(lambda: small.sum().item(), launches)
    yield setting.speed("kernel and wait", 1e6 * seconds, "us", expected.WAIT_US)


def _ceilings(setting: Setting) -> Iterator[Line]:
    source = torch.ones(setting.pick(4 << 30, 1 << 12), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = setting.seconds_of(lambda: target.copy_(source), setting.pick(10, 2))
    yield setting.speed("copy", 2 * source.nbytes / seconds / 1e12, "TB/s", expected.BANDWIDTH_TBS)
    size = setting.pick(8192, 32)
    left, right = (torch.randn(size, size, device="cuda").bfloat16() for _ in range(2))
    seconds = setting.seconds_of(lambda: left @ right, setting.pick(10, 2))
    yield setting.speed(f"bf16 product {size}^3", 2 * size**3 / seconds / 1e12, "TFLOP/s", expected.MATMUL_TFLOPS)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
