"""NVIDIA's forward-compatibility libraries: whether engines load them instead of the host's CUDA driver library.

They are the user part (libcuda) of a newer driver and run on the kernel part of an older one, on every NVIDIA GPU but
GeForce and TITAN. docs/decisions/0106-cuda-compatibility-libraries.md.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

# The Dockerfile puts each package's libraries into a folder named after its CUDA version.
PACKAGES = Path("/opt/cuda-compat")
DRIVER = Path("/proc/driver/nvidia")

Version = tuple[int, ...]
_CONSUMER_GPU = re.compile(r"\b(GeForce|TITAN)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Requirement:
    """What CUDA needs: the oldest driver that serves it alone, and older branches on which NVIDIA supports a package.

    Sources: "CUDA Minor Version Compatibility" in CUDA's release notes; `NVIDIA_REQUIRE_CUDA` of NVIDIA's own images.
    """

    oldest_driver: Version
    older_branches: frozenset[int]


REQUIREMENTS = {
    "12.6": Requirement((525, 60, 13), frozenset({470})),
    "13.0": Requirement((580,), frozenset({535, 550, 565, 570, 575})),
}


@dataclass(frozen=True, slots=True)
class Package:
    """The libraries in the image: their folder, their CUDA version, and the driver that they were built from."""

    folder: Path
    cuda: str
    driver: Version


@dataclass(frozen=True, slots=True)
class Host:
    """The host's driver, empty if there is none, and the models of its GPUs, empty if they are unknown."""

    driver: Version = ()
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether engines load the package, and the reason in words."""

    package: bool
    reason: str


def find_package(packages: Path) -> Package | None:
    """The package in the image; None in an image for CPU and outside an image."""
    for library in sorted(packages.glob("*/libcuda.so.1")):
        # A symbolic link to libcuda.so.560.35.05.
        driver = read_version(library.resolve().name)
        if driver:
            return Package(library.parent, library.parent.name, driver)
    return None


def find_host(driver: Path) -> Host:
    """The driver and the GPUs that the kernel's NVIDIA module reports. A container sees its own GPUs only."""
    gpus = [_model(_text(each)) for each in sorted(driver.glob("gpus/*/information"))]
    return Host(read_version(_text(driver / "version")), tuple(filter(None, gpus)))


def choose(package: Package, host: Host) -> Choice:
    """Load the package only where nothing else works: the driver is too old for this CUDA, and NVIDIA supports it.

    The libraries never run on a driver newer than their own: CUDA then fails with error 803.
    """
    requirement = REQUIREMENTS.get(package.cuda)
    if not host.driver:
        return Choice(False, "there is no NVIDIA driver")
    if requirement is None:
        return Choice(False, f"nothing is known of CUDA {package.cuda}")
    found = f"driver {dotted(host.driver)}"
    if host.driver >= min(requirement.oldest_driver, package.driver):
        return Choice(False, f"{found} serves CUDA {package.cuda}")
    too_old = f"{found} is too old for CUDA {package.cuda}"
    consumer = [gpu for gpu in host.gpus if _CONSUMER_GPU.search(gpu)]
    if consumer:
        return Choice(False, f"{too_old}; {consumer[0]} runs no compatibility libraries")
    if host.driver[0] not in requirement.older_branches:
        return Choice(False, f"{too_old} and for its compatibility libraries")
    return Choice(True, too_old)


def engine_libraries(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for every engine, and a line in the log: LD_LIBRARY_PATH with the package first, or nothing.

    The loader looks there before the folders that hold the host's library.
    """
    package = find_package(PACKAGES)
    if package is None:
        return {}
    choice = choose(package, find_host(DRIVER))
    if not choice.package:
        logger.info("CUDA driver library: the host's; %s", choice.reason)
        return {}
    logger.info("CUDA driver library: %s of driver %s; %s", package.folder, dotted(package.driver), choice.reason)
    rest = environ.get("LD_LIBRARY_PATH", "")
    return {"LD_LIBRARY_PATH": f"{package.folder}:{rest}" if rest else str(package.folder)}


def read_version(text: str) -> Version:
    """The first driver version in a text, such as (560, 35, 5); empty if there is none.

    Kernel modules name it after "Kernel Module", the open ones after "for x86_64" too; a library's name ends in it.
    """
    found = re.search(r"\b(\d{3,}(?:\.\d+){1,2})\b", text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def dotted(version: Version) -> str:
    """A version as NVIDIA writes it: later parts have two digits at least."""
    return ".".join(f"{part:02}" for part in version)


def _model(information: str) -> str:
    found = re.search(r"^Model:\s*(.+?)\s*$", information, re.MULTILINE)
    return found[1] if found else ""


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
