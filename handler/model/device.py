"""The device that the model runs on, and the type it computes in there."""

from __future__ import annotations

import warnings

import torch

from handler.seam.errors import BadConfiguration


def choose_device(wanted: str) -> torch.device:
    """`auto` is CUDA if there is one.

    Raises BadConfiguration if the wanted device does not exist, or if there is a CUDA device that torch cannot use: it
    must not serve a hundred times slower than its owner pays for.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    usable, complaint = _cuda_usable()
    if complaint:
        raise BadConfiguration(f"CUDA cannot be used: {complaint}; DEVICE=cpu serves without it")
    if wanted == "auto":
        return torch.device("cuda" if usable else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and not usable:
        raise BadConfiguration(f"DEVICE={wanted} is set, but torch {torch.__version__} finds no usable CUDA device")
    return device


def _cuda_usable() -> tuple[bool, str]:
    """Whether torch can use CUDA, and what it complains of: a driver that is too old is no error to it."""
    with warnings.catch_warnings(record=True) as caught:
        # No other: the filters of its last warning are Python's while it ends, and libraries leave files open.
        warnings.filterwarnings("always", message=".*CUDA initialization")
        usable = torch.cuda.is_available()
    said = [str(each.message) for each in caught if "CUDA initialization" in str(each.message)]
    if usable or not said:
        return usable, ""
    reason = said[0].split("CUDA initialization: ", 1)[-1].split("(Triggered internally")[0]
    return False, " ".join(reason.split())[:300].rstrip(". ")


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 where the hardware multiplies it natively, else float16 on CUDA and float32 on CPU."""
    if wanted != "auto":
        return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[wanted]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32
