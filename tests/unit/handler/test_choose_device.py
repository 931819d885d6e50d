"""A CUDA device that cannot be used is said, not worked around."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch

from handler.model.device import choose_device
from handler.seam.errors import BadConfiguration

TOO_OLD = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver. (Triggered internally at /pytorch/c10/cuda/CUDAFunctions.cpp:119.)"
)


NO_DEVICE = "CUDA initialization: CUDA driver initialization failed, you might not have a CUDA gpu."


def complains(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    def is_available() -> bool:
        warnings.warn(text, UserWarning, stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)


@pytest.fixture
def old_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    complains(monkeypatch, TOO_OLD)


@pytest.mark.usefixtures("old_driver")
@pytest.mark.parametrize("wanted", ["auto", "cuda", "cuda:1"])
@pytest.mark.parametrize(
    ("cuda", "host"),
    [("12.6", "al2-ami-sagemaker-inference-gpu-3-1"), ("13.0", "al2023-ami-sagemaker-inference-gpu-4-1")],
)
def test_a_driver_that_is_too_old(wanted: str, cuda: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(BadConfiguration) as found:
        choose_device(wanted)
    assert str(found.value) == (
        "CUDA cannot be used: The NVIDIA driver on your system is too old (found version 11040). Please update your "
        f"GPU driver; DEVICE=cpu serves without it; on SageMaker, InferenceAmiVersion {host} brings a newer driver"
    )


@pytest.mark.parametrize(
    "error",
    [
        "803: system has unsupported display driver / cuda driver combination",
        "804: forward compatibility was attempted on non supported HW",
    ],
)
def test_libraries_that_do_not_match_the_driver(error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    complains(monkeypatch, f"CUDA initialization: Unexpected error from cudaGetDeviceCount(). Error {error}")
    with pytest.raises(BadConfiguration, match=rf"{error[:3]}: .*; on SageMaker, InferenceAmiVersion .* newer driver$"):
        choose_device("auto")


def test_a_driver_that_sees_no_gpu_is_not_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    complains(monkeypatch, NO_DEVICE)
    with pytest.raises(BadConfiguration, match=r"without it$"):
        choose_device("auto")


def test_an_engine_that_ends_of_it_says_nothing_else() -> None:
    """Its counters are files that are open when Python ends, which is no complaint of ours."""
    program = f"""
import os, sys, types, warnings, torch
from handler.model.device import choose_device
from handler.seam.errors import BadConfiguration
torch.cuda.is_available = lambda: warnings.warn({TOO_OLD!r})
sys.modules["counters"] = types.ModuleType("counters")
sys.modules["counters"].file = open(os.devnull)
try:
    choose_device("auto")
except BadConfiguration:
    pass
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not ended.stderr


@pytest.mark.usefixtures("old_driver")
def test_the_cpu_can_be_asked_for() -> None:
    assert choose_device("cpu").type == "cpu"


def test_no_device_at_all_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(BadConfiguration, match="DEVICE=cuda is set"):
        choose_device("cuda")
