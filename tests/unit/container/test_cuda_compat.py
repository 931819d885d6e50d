"""When engines load NVIDIA's compatibility libraries. Texts are those of real drivers; no GPU is needed."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from container.run_dir import RunDir
from container.settings import Settings
from container.supervisor import cuda_compat
from container.supervisor.cuda_compat import REQUIREMENTS, Host, Package, choose, dotted, find_host, read_version
from container.supervisor.supervisor import Supervisor
from tools.image_check.dockerfile import find, parse

ROOT = Path(__file__).resolve().parents[3]
BUILT_FROM = {"12.6": "560.35.05", "13.0": "580.178.04"}

CLOSED_470 = """\
NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13 16:14:05 UTC 2021
GCC version:  gcc version 7.3.1 20180712 (Red Hat 7.3.1-13) (GCC)
"""
OPEN_580 = """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.173.02  Release Build  (archlinux-builder@)
GCC version:  gcc version 12.2.0 (GCC)
"""
A10G = """\
Model: \t\t NVIDIA A10G
IRQ:   \t\t 0
GPU UUID: \t GPU-6d2b1f0e-0000-0000-0000-000000000000
Video BIOS: \t 94.02.75.00.01
Bus Type: \t PCIe
Device Minor: \t 0
"""


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (CLOSED_470, (470, 57, 2)),
        (OPEN_580, (580, 173, 2)),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  384.81  Wed Aug 17 22:24:07 PDT 2016\n", (384, 81)),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n", (540, 4, 0)),
        ("libcuda.so.560.35.05", (560, 35, 5)),
        ("libcuda.so.1", ()),
        ("", ()),
    ],
)
def test_versions_are_read_from_modules_and_libraries(text: str, version: tuple[int, ...]) -> None:
    assert read_version(text) == version


def test_versions_are_said_as_nvidia_writes_them() -> None:
    assert [dotted(read_version(text)) for text in ("560.35.05", "384.81")] == ["560.35.05", "384.81"]


def host_files(folder: Path, version: str, *gpus: str) -> Path:
    """What the kernel's module reports below /proc/driver/nvidia."""
    for number, information in enumerate(gpus):
        (folder / f"gpus/0000:00:{number:02}.0").mkdir(parents=True)
        (folder / f"gpus/0000:00:{number:02}.0/information").write_text(information)
    folder.mkdir(exist_ok=True)
    (folder / "version").write_text(version)
    return folder


def package_files(folder: Path, cuda: str) -> Path:
    """The Dockerfile's /opt/cuda-compat."""
    (folder / cuda).mkdir(parents=True)
    (folder / cuda / f"libcuda.so.{BUILT_FROM[cuda]}").touch()
    (folder / cuda / "libcuda.so.1").symlink_to(f"libcuda.so.{BUILT_FROM[cuda]}")
    return folder


def test_the_host_is_read_from_the_kernel(tmp_path: Path) -> None:
    t4 = A10G.replace("NVIDIA A10G", "Tesla T4")
    assert find_host(host_files(tmp_path, CLOSED_470, A10G, t4)) == Host((470, 57, 2), ("NVIDIA A10G", "Tesla T4"))
    assert find_host(tmp_path / "none") == Host()


# Rows of AWS's and NVIDIA's tables. 535 and 550 run CUDA 12.6 by themselves (minor version compatibility).
OURS, THEIRS = True, False
TABLE = [
    ("470.57.02", "NVIDIA A10G", "12.6", OURS),  # SageMaker's default on g5
    ("470.256.02", "Tesla T4", "12.6", OURS),  # g4dn
    ("470.57.02", "NVIDIA A100-SXM4-40GB", "12.6", OURS),  # p4d
    ("470.57.02", "", "12.6", OURS),  # no name: nothing else works
    ("470.57.02", "NVIDIA GeForce RTX 3090", "12.6", THEIRS),
    ("470.57.02", "NVIDIA TITAN RTX", "12.6", THEIRS),
    ("450.80.02", "Tesla T4", "12.6", THEIRS),  # NVIDIA supports no package of 12.6 on this branch
    ("525.53", "NVIDIA A10G", "12.6", THEIRS),
    ("525.60.13", "NVIDIA A10G", "12.6", THEIRS),
    ("535.183.01", "NVIDIA L4", "12.6", THEIRS),
    ("550.163.01", "NVIDIA H100 80GB HBM3", "12.6", THEIRS),
    ("560.35.05", "NVIDIA L40S", "12.6", THEIRS),
    ("580.173.02", "NVIDIA H200", "12.6", THEIRS),  # newer than the package: error 803
    ("470.57.02", "NVIDIA A10G", "13.0", THEIRS),
    ("525.60.13", "NVIDIA A10G", "13.0", THEIRS),
    ("535.183.01", "NVIDIA L4", "13.0", OURS),
    ("550.163.01", "NVIDIA A100-SXM4-80GB", "13.0", OURS),
    ("550.163.01", "NVIDIA GeForce RTX 4090", "13.0", THEIRS),
    ("570.211.01", "NVIDIA RTX PRO 6000 Blackwell Server Edition", "13.0", OURS),
    ("580.65.06", "NVIDIA B200", "13.0", THEIRS),
    ("580.178.04", "NVIDIA H100 80GB HBM3", "13.0", THEIRS),
    ("610.43.02", "NVIDIA H100 80GB HBM3", "13.0", THEIRS),
    ("", "", "12.6", THEIRS),
    ("470.57.02", "NVIDIA A10G", "14.1", THEIRS),
]


@pytest.mark.parametrize(("driver", "gpu", "cuda", "ours"), TABLE)
def test_the_package_is_loaded_where_nothing_else_works(driver: str, gpu: str, cuda: str, ours: bool) -> None:
    package = Package(Path("/x"), cuda, read_version(BUILT_FROM.get(cuda, "999.1")))
    found = choose(package, Host(read_version(driver), (gpu,) if gpu else ()))
    assert found.package is ours, found.reason
    assert (f"driver {driver}" if driver and cuda in REQUIREMENTS else "") in found.reason


def test_one_consumer_gpu_among_several_is_enough() -> None:
    package = Package(Path("/x"), "12.6", (560, 35, 5))
    assert not choose(package, Host((470, 57, 2), ("Tesla T4", "NVIDIA GeForce GTX 1080"))).package


def engine_environment(tmp_path: Path) -> dict[str, str]:
    """Of the engine that PID 1 starts; the engine itself is stopped at once."""
    (tmp_path / "run").mkdir()
    supervisor = Supervisor(Settings.from_environ({}), RunDir(tmp_path / "run"), listen_fd=0)
    (engine,) = supervisor._engines
    try:
        engine.check()
        # Linux shows an empty file for a moment after exec; one of a process that has ended stays empty.
        while not (environ := Path(f"/proc/{engine.pid}/environ").read_text()):
            time.sleep(0.001)
        pairs = environ.split("\0")
        return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("version", "already", "expected", "line"),
    [
        (CLOSED_470, "", "{}/12.6", "{}/12.6 of driver 560.35.05; driver 470.57.02 is too old for CUDA 12.6"),
        (CLOSED_470, "/usr/local/nvidia/lib64", "{}/12.6:/usr/local/nvidia/lib64", "driver 470.57.02 is too old"),
        (OPEN_580, "/usr/local/nvidia/lib64", "/usr/local/nvidia/lib64", "the host's; driver 580.173.02 serves CUDA"),
    ],
)
def test_the_engine_gets_it_and_the_log_says_why(
    version: str,
    already: str,
    expected: str,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    packages = package_files(tmp_path / "compat", "12.6")
    monkeypatch.setattr(cuda_compat, "PACKAGES", packages)
    monkeypatch.setattr(cuda_compat, "DRIVER", host_files(tmp_path / "nvidia", version, A10G))
    monkeypatch.setenv("LD_LIBRARY_PATH", already)
    with caplog.at_level(logging.INFO, cuda_compat.__name__):
        environ = engine_environment(tmp_path)
    assert environ["LD_LIBRARY_PATH"] == expected.format(packages)
    assert line.format(packages) in caplog.text


def test_an_image_without_the_package_says_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda_compat, "PACKAGES", tmp_path)
    with caplog.at_level(logging.INFO, cuda_compat.__name__):
        assert cuda_compat.engine_libraries({"LD_LIBRARY_PATH": "/x"}) == {}
    assert not caplog.text


def test_the_image_has_a_package_for_each_cuda_that_torch_has() -> None:
    """What the Dockerfile downloads is what the choice knows."""
    text = (ROOT / "Dockerfile").read_text()
    stage = find(parse(text, {}), "compat")
    assert stage is not None
    run = stage.last("RUN")
    assert run is not None
    for cuda in REQUIREMENTS:
        package = f"cuda={cuda} package=cuda-compat-{cuda.replace('.', '-')} driver={BUILT_FROM[cuda]}"
        assert f"cu{cuda.replace('.', '')}) {package} ;;" in run.text
    assert f"COPY --from=compat {cuda_compat.PACKAGES} {cuda_compat.PACKAGES}" in text
    built = {path.stem.removeprefix("image-cu") for path in (ROOT / "requirements").glob("image-cu*.txt")}
    assert built == {cuda.replace(".", "") for cuda in REQUIREMENTS}
