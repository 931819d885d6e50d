"""SageMaker's GPU instances, from EC2's instance data. The tests check the names against botocore.

GPU memory is as drivers report it. `nvme_gb` is the local disk for the model, `/tmp` and the image; if not all sizes of
a family are known, it is the smallest known one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Instance:
    """One SageMaker instance type. `capability` is the CUDA compute capability, major * 10 + minor."""

    name: str
    gpu: str
    capability: int
    num_gpus: int
    gpu_mib: int
    vcpus: int
    ram_gib: int
    nvme_gb: int

    @property
    def has_bfloat16(self) -> bool:
        """False for Turing (T4) and older GPUs, which only emulate bfloat16."""
        return self.capability >= 80

    @property
    def needs_new_driver(self) -> bool:
        """True for Blackwell, which needs driver 570 or later; only the newest host image has it."""
        return self.capability >= 100


_SIZES = ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge", "12xlarge", "24xlarge", "48xlarge")
_VCPUS = (4, 8, 16, 32, 64, 48, 96, 192)


def _family(
    family: str, gpu: str, capability: int, mib: int, ram: tuple[int, ...], nvme: tuple[int, ...]
) -> Iterator[Instance]:
    """A g family: five sizes with one GPU, then 12xlarge and 24xlarge with four, 48xlarge with eight."""
    gpus = (1, 1, 1, 1, 1, 4, 4, 8)
    for size, count, vcpus, ram_gib, disk in zip(_SIZES, gpus, _VCPUS, ram, nvme, strict=True):
        yield Instance(f"ml.{family}.{size}", gpu, capability, count, mib, vcpus, ram_gib, disk)


def _blackwell(family: str, gpu: str, mib: int, ram: tuple[int, ...], nvme: int) -> Iterator[Instance]:
    sizes = ("2xlarge", "4xlarge", "8xlarge", "12xlarge", "24xlarge", "48xlarge")
    for size, count, vcpus, ram_gib in zip(sizes, (1, 1, 1, 2, 4, 8), (8, 16, 32, 48, 96, 192), ram, strict=True):
        yield Instance(f"ml.{family}.{size}", gpu, 120, count, mib, vcpus, ram_gib, nvme)


_SMALL_RAM = (16, 32, 64, 128, 256, 192, 384, 768)
_LARGE_RAM = (32, 64, 128, 256, 512, 384, 768, 1536)

INSTANCES: tuple[Instance, ...] = (
    *_family("g6", "L4", 89, 22888, _SMALL_RAM, (250, 450, 600, 900, 1880, 3760, 3760, 7520)),
    *_family("g5", "A10G", 86, 22888, _SMALL_RAM, (250, 450, 600, 900, 1900, 3800, 3800, 7600)),
    *_family("g6e", "L40S", 89, 45776, _LARGE_RAM, (250, 450, 600, 900, 1900, 3800, 3800, 7600)),
    *_blackwell("g7", "RTX PRO 4500", 32768, (32, 64, 128, 192, 384, 768), 440),
    *_blackwell("g7e", "RTX PRO 6000", 98304, (64, 128, 256, 384, 768, 2048), 1900),
    Instance("ml.g4dn.xlarge", "T4", 75, 1, 16384, 4, 16, 125),
    Instance("ml.g4dn.2xlarge", "T4", 75, 1, 16384, 8, 32, 225),
    Instance("ml.g4dn.4xlarge", "T4", 75, 1, 16384, 16, 64, 225),
    Instance("ml.g4dn.8xlarge", "T4", 75, 1, 16384, 32, 128, 900),
    Instance("ml.g4dn.16xlarge", "T4", 75, 1, 16384, 64, 256, 900),
    Instance("ml.g4dn.12xlarge", "T4", 75, 4, 16384, 48, 192, 900),
    Instance("ml.p5.4xlarge", "H100", 90, 1, 81920, 16, 256, 3800),
    Instance("ml.p4d.24xlarge", "A100 40GB", 80, 8, 40960, 96, 1152, 8000),
    Instance("ml.p4de.24xlarge", "A100 80GB", 80, 8, 81920, 96, 1152, 8000),
    Instance("ml.p5.48xlarge", "H100", 90, 8, 81920, 192, 2048, 30400),
    Instance("ml.p5e.48xlarge", "H200", 90, 8, 144384, 192, 2048, 30400),
    Instance("ml.p5en.48xlarge", "H200", 90, 8, 144384, 192, 2048, 30400),
    Instance("ml.p6-b200.48xlarge", "B200", 100, 8, 183359, 192, 2048, 30400),
    Instance("ml.p6-b300.48xlarge", "B300", 103, 8, 275040, 192, 4096, 30400),
)

_BY_NAME = {instance.name: instance for instance in INSTANCES}


def find_instance(name: str) -> Instance | None:
    """Return the instance with this SageMaker name, or None if it is not a known GPU instance."""
    return _BY_NAME.get(name)


def has_gpu(name: str) -> bool:
    """True for SageMaker's g and p families, also for types missing from `INSTANCES`."""
    return re.match(r"ml\.[gp]\d", name) is not None
