"""The image's lock files are complete, hashed, and agree with constraints.txt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.image_check import lock

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"
HASHED = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>\S+) --hash=sha256:[0-9a-f]{64}")
STALE = "run `python -m tools.image_check.lock`"


def lines(name: str) -> list[str]:
    found = (REQUIREMENTS / name).read_text().splitlines()
    return [line for line in found if line and not line.startswith("#")]


def pins(name: str) -> dict[str, str]:
    matches = [HASHED.fullmatch(line) for line in lines(name)]
    assert all(matches), f"{name} has a line without a hash"
    return {match["name"]: match["version"] for match in matches if match}


def constraints() -> dict[str, str]:
    found = (line.split("==") for line in lines("constraints.txt"))
    return {lock.normalised(name): version for name, version in found}


@pytest.mark.parametrize("name", [lock.BUILD, lock.COMMON, lock.KERNELS, lock.MODEL])
def test_versions_are_those_of_the_constraints(name: str) -> None:
    wanted = constraints()
    for package, version in pins(name).items():
        assert wanted.get(package, version) == version, STALE


@pytest.mark.parametrize("name", ["web.txt", "engine.txt"])
def test_everything_that_is_asked_for_is_locked(name: str) -> None:
    locked = pins(lock.COMMON).keys() | pins(lock.KERNELS).keys() | {"torch"}
    assert {lock.normalised(line) for line in lines(name)} <= locked, STALE


def test_torch_is_the_same_release_for_every_target() -> None:
    release = constraints()["torch"]
    assert pins(lock.TORCH_CPU) == {"torch": f"{release}+cpu"}
    for target in lock.CUDA_TARGETS:
        assert lines(f"image-{target}.txt") == [f"torch=={release}+{target}"]


def test_what_only_a_cpu_needs_is_kept_apart() -> None:
    assert pins(lock.KERNELS).keys() == set(lock.KERNEL_PACKAGES)
    assert not set(lock.KERNEL_PACKAGES) & pins(lock.COMMON).keys()


def item(name: str, version: str, digest: str = "a" * 64) -> dict[str, object]:
    hashes = {"sha256": digest} if digest else {}
    return {
        "metadata": {"name": name, "version": version},
        "download_info": {"url": "file:///secret/place", "archive_info": {"hashes": hashes}},
    }


def test_a_report_becomes_files_without_places() -> None:
    report = {"install": [item("Torch", "2.0+cpu"), item("setuptools", "1"), item("A_b", "3")]}
    files = lock.split(lock.read_report(report), [])
    assert f"a-b==3 --hash=sha256:{'a' * 64}" in files[lock.COMMON]
    assert "torch" not in files[lock.COMMON]
    assert "secret" not in "".join(files.values())


def test_a_file_without_a_hash_is_refused() -> None:
    with pytest.raises(ValueError, match="no sha256"):
        lock.read_report({"install": [item("x", "1", digest="")]})


def test_a_cuda_torch_is_refused() -> None:
    with pytest.raises(ValueError, match="not to a CPU build"):
        lock.split([lock.Pin("torch", "2.0", "a"), lock.Pin("setuptools", "1", "b")], [])


def test_what_is_left_out_is_not_locked_and_nothing_imports_what_needs_it() -> None:
    root = REQUIREMENTS.parent
    assert not set(lock.LEFT_OUT) & pins(lock.COMMON).keys()
    for path in [*(root / "container").rglob("*.py"), *(root / "handler").rglob("*.py")]:
        found = re.findall(r"^\s*(?:from|import) (?:scipy|sagemaker_inference)\b.*", path.read_text(), re.MULTILINE)
        allowed = r"from sagemaker_inference import (content_types|parameters|environment|errors|encoder)"
        if path == root / "container/hooks/user_code/content/arrays.py":
            allowed += r"|import scipy\.sparse"  # a body that names the package if a hook has not brought it
        assert all(re.fullmatch(allowed, line.strip()) for line in found), path
