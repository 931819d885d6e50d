"""The device that the model runs on, and the data type of its computation."""

from __future__ import annotations

import warnings

import torch

from handler.seam.errors import BadConfiguration, one_line

_NATIVE_BFLOAT16 = (8, 0)
# What torch says of a driver that is too old, and of compatibility libraries that do not match it (errors 803, 804).
_OLD_DRIVER = ("too old", "unsupported display driver / cuda driver combination", "forward compatibility was attempted")
# SageMaker's host images with a driver for CUDA 13, and for CUDA 12.
_CUDA_13_HOST, _CUDA_12_HOST = "al2023-ami-sagemaker-inference-gpu-4-1", "al2-ami-sagemaker-inference-gpu-3-1"


def choose_device(wanted: str) -> torch.device:
    """The device for `wanted`; `auto` is CUDA if available, else CPU.

    Raises BadConfiguration if the device does not exist, or if a CUDA device exists that torch cannot use: a GPU must
    not silently serve at CPU speed.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    usable, complaint = _cuda_usable()
    if complaint:
        raise BadConfiguration(f"CUDA cannot be used: {complaint}; DEVICE=cpu serves without it{_advice(complaint)}")
    if wanted == "auto":
        return torch.device("cuda" if usable else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and not usable:
        raise BadConfiguration(f"DEVICE={wanted} is set, but torch {torch.__version__} finds no usable CUDA device")
    return device


def _advice(complaint: str) -> str:
    if not any(each in complaint for each in _OLD_DRIVER):
        return ""
    host = _CUDA_13_HOST if (torch.version.cuda or "").startswith("13.") else _CUDA_12_HOST
    return f"; on SageMaker, InferenceAmiVersion {host} brings a newer driver"


def _cuda_usable() -> tuple[bool, str]:
    """Whether torch can use CUDA, and its complaint if not. torch only warns of a driver that is too old."""
    with warnings.catch_warnings(record=True) as caught:
        # No broader filter: one that is still active when Python exits would report files that libraries leave open.
        warnings.filterwarnings("always", message=".*CUDA initialization")
        usable = torch.cuda.is_available()
    said = [str(each.message) for each in caught if "CUDA initialization" in str(each.message)]
    if usable or not said:
        return usable, ""
    reason = said[0].split("CUDA initialization: ", 1)[-1].split("(Triggered internally")[0]
    return False, one_line(reason).rstrip(". ")


def capability_of(device: torch.device) -> int | None:
    """CUDA's compute capability as major * 10 + minor; None for a CPU."""
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The dtype for `wanted`; `auto` is bfloat16 if the hardware has it, else float16 on CUDA and float32 on CPU.

    Below compute capability 8.0 (T4) a GPU emulates bfloat16: no tensor cores, about ten times slower than float16.
    """
    if wanted != "auto":
        return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[wanted]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= _NATIVE_BFLOAT16 else torch.float16
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32
