"""Which packages a bundle holds: what the engine and its tests need, less what every machine with torch has."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

from tools.image_check.lock import normalised

REQUIREMENTS = Path(__file__).resolve().parents[3] / "requirements"
# torch brings CUDA's libraries, gigabytes of them; numpy is beside any torch.
PROVIDED = frozenset({"torch", "numpy"})
# Compiles kernels for CPU only; the CUDA image has none either.
_CPU_ONLY = frozenset({"numba"})
_TEST_TOOLS = ("hypothesis", "psutil", "pytest", "pytest-timeout")


def roots() -> list[str]:
    """The engine's direct requirements, less those for CPU, and what runs its tests."""
    lines = (REQUIREMENTS / "engine.txt").read_text().split()
    return sorted({normalised(line) for line in lines} - _CPU_ONLY - PROVIDED | set(_TEST_TOOLS))


def pins() -> dict[str, str]:
    """Normalised name -> version, from requirements/constraints.txt."""
    lines = (REQUIREMENTS / "constraints.txt").read_text().splitlines()
    pairs = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {normalised(name): version for name, _, version in pairs}


def needed(
    names: list[str], python: str, requirements: Callable[[str], list[str] | None] = requires
) -> dict[str, list[str]]:
    """`names` and all that they need on Linux x86-64 with Python `python` ("3.12"), each with what asks for it.

    `requirements` says what a package asks for; the default reads the installed ones.
    """
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    environment |= {"platform_system": "Linux", "platform_machine": "x86_64", "implementation_name": "cpython"}
    environment |= {"platform_python_implementation": "CPython", "os_name": "posix", "extra": ""}
    found: dict[str, list[str]] = {name: [] for name in names}
    open_names = list(names)
    while open_names:
        name = open_names.pop()
        for requirement in map(Requirement, requirements(name) or ()):
            other = normalised(requirement.name)
            if other in PROVIDED or (requirement.marker and not requirement.marker.evaluate(environment)):
                continue
            if other not in found:
                open_names.append(other)
            found.setdefault(other, []).append(name)
    return found


def pinned(names: list[str], versions: dict[str, str]) -> list[str]:
    """`name==version` of each. Raises ValueError for names without a pin."""
    missing = sorted(name for name in names if name not in versions)
    if missing:
        raise ValueError(f"requirements/constraints.txt pins no {', '.join(missing)}")
    return [f"{name}=={versions[name]}" for name in sorted(names)]
