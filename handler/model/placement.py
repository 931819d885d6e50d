"""Which devices an engine takes: one GPU if the model fits, else as many as it needs; hence the number of engines.

The first engine decides. PID 1 passes the decision to the others, each with its own GPUs in CUDA_VISIBLE_DEVICES, where
numbers start at 0. Engines do not share GPUs; on CPU they share cores and memory.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from handler.seam.config import EngineConfig, Quantize
from handler.seam.errors import BadConfiguration

logger = logging.getLogger(__name__)

# Share of a GPU's memory for weights; the rest is for keys, values and activations.
WEIGHTS_SHARE = 0.8
# Bytes per weight, scales included. Ignores embeddings and norms, which stay unquantised: they are a small part of
# models large enough for this to matter.
_QUANTIZED_BYTES = {Quantize.INT8: 1.1, Quantize.NF4: 0.6, Quantize.FP4: 0.6}


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of one engine, in order; the first takes the input. `num_engines` such shares fit the machine."""

    own: tuple[torch.device, ...]
    num_engines: int = 1


def gpu_bytes() -> tuple[int, ...]:
    """Memory in bytes of each GPU that CUDA_VISIBLE_DEVICES shows.

    Asking what is free would create a context of several hundred MB on every GPU, also on those of other engines.
    """
    return tuple(torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count()))


def choose_devices(config: EngineConfig, device: torch.device, num_bytes: int, memory: tuple[int, ...]) -> Devices:
    """This engine's share of the GPUs for weights of `num_bytes`; just `device` if it is numbered or no GPU.

    `memory` is `gpu_bytes()`. Raises BadConfiguration if more GPUs or engines are configured than fit.
    """
    if device.type != "cuda":
        if config.num_devices > 1:
            logger.warning("NUM_SHARD=%d is ignored: the engine runs on %s", config.num_devices, device.type)
        return Devices((device,))
    numbered: int | None = device.index  # torch's stubs omit None
    if numbered is not None:
        if config.num_engines > 1:
            raise BadConfiguration(f"ENGINE_REPLICAS must be 1 with DEVICE={device}. Given: {config.num_engines}")
        return Devices((device,))
    if config.devices_per_engine:
        # The first engine has decided, and PID 1 shows this one its own GPUs only.
        return Devices(tuple(torch.device("cuda", index) for index in range(config.devices_per_engine)))
    if config.num_devices > len(memory):
        raise BadConfiguration(
            f"NUM_SHARD must be at most {len(memory)}, the GPUs that are visible. Given: {config.num_devices}"
        )
    usable = memory[: config.num_devices or len(memory)]
    span = _span(num_bytes, usable, max(1, len(usable) // config.num_engines))
    if span * config.num_engines > len(usable):
        raise BadConfiguration(
            f"ENGINE_REPLICAS must be at most {len(usable) // span}: an engine takes {span} of {len(usable)} GPUs. "
            f"Given: {config.num_engines}"
        )
    first = config.index * span
    return Devices(tuple(torch.device("cuda", first + i) for i in range(span)), len(usable) // span)


def _span(num_bytes: int, memory: tuple[int, ...], most: int) -> int:
    """The fewest GPUs that hold the weights, up to `most`, judged by the GPU with the least memory.

    If even `most` do not suffice, the loader quantises or refuses the model.
    """
    room = max(1, int(min(memory) * WEIGHTS_SHARE))
    return min(most, max(1, -(-num_bytes // room)))


def weight_bytes(directory: Path, quantize: Quantize, dtype: torch.dtype) -> int:
    """Approximate bytes of the checkpoint's weights once loaded as `dtype`; 0 if unknown."""
    on_disk = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    try:
        config = json.loads((directory / "config.json").read_text("utf-8"))
        stored = getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32"))
    except (OSError, ValueError, AttributeError):
        return on_disk
    if config.get("quantization_config"):
        return on_disk
    return int(on_disk / stored.itemsize * _QUANTIZED_BYTES.get(quantize, dtype.itemsize))


def memory_limits(devices: Devices) -> dict[int, int]:
    """accelerate's `max_memory`: this engine's GPUs, but not CPU or disk, where a step would take seconds."""
    return {device.index: int(torch.cuda.mem_get_info(device)[0] * WEIGHTS_SHARE) for device in devices.own}
