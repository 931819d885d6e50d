"""Which devices an engine takes, and what `auto` makes of the weights there; hence the number of engines.

One GPU if the model fits, else as many as it needs (model_memory/sharing.py, the rule that the deploy helper's plan
follows too). The first engine decides. PID 1 passes the decision to the others, each with its own GPUs in
CUDA_VISIBLE_DEVICES, where numbers start at 0. Engines do not share GPUs; on CPU they share cores and memory.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from handler.formats.gguf.manifest import Manifest, is_converted, read_manifest
from handler.model.checks.stored_settings import stored_settings
from handler.model.device import capability_of
from handler.model.gguf.needs import stays_as_stored
from handler.model.json_file import read_json
from handler.model.kv_size import choose_kv_codes
from handler.model.language_bytes import language_bytes
from handler.model.loading.weight_source import StoredForm
from handler.seam.config import EngineConfig, Quantize
from handler.seam.errors import BadConfiguration
from model_memory import sharing
from model_memory.adapter_bytes import adapter_bytes
from model_memory.forms import AUTO_FORMS, Form, auto_forms, quantized
from model_memory.gguf_bytes import gguf_bytes
from model_memory.key_bytes import key_bytes_per_token, max_positions
from model_memory.sharing import KEYS_SHARE, USUAL_TOKENS, WEIGHTS_SHARE, Share, Weights
from model_memory.stored_forms import stored
from model_memory.weight_counts import WeightCounts, count_weights, text_values

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of one engine, in order; the first takes the input. `num_engines` such shares fit the machine.

    `quantize` is what HF_MODEL_QUANTIZE=auto means there, AUTO while nobody has weighed it.
    """

    own: tuple[torch.device, ...]
    num_engines: int = 1
    quantize: Quantize = Quantize.AUTO


@dataclass(frozen=True, slots=True)
class Needs:
    """The weights in the forms that HF_MODEL_QUANTIZE allows, the least lossy first; `key_bytes` of one sequence's
    keys and of adapters."""

    forms: tuple[Weights, ...]
    key_bytes: int = 0

    def beside(self, other: Needs) -> Needs:
        """These and, in each form, the memory of `other`, in its least lossy form."""
        more = other.forms[0].num_bytes
        forms = (dataclasses.replace(each, num_bytes=each.num_bytes + more) for each in self.forms)
        return Needs(tuple(forms), self.key_bytes + other.key_bytes)


def gpu_bytes() -> tuple[int, ...]:
    """Memory in bytes of each GPU that CUDA_VISIBLE_DEVICES shows.

    Asking what is free would create a context of several hundred MB on every GPU, also on those of other engines.
    """
    return tuple(torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count()))


def choose_devices(config: EngineConfig, device: torch.device, needs: Needs, memory: tuple[int, ...]) -> Devices:
    """This engine's share of the GPUs for weights of these `needs`; just `device` if it is numbered or no GPU.

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
        found = _share(config, needs, memory[numbered : numbered + 1] or memory, 1)
        return Devices((device,), 1, _form(found))
    if span := config.devices_per_engine:
        # The first engine has decided, and PID 1 shows this one its own GPUs only.
        found = _share(config, needs, memory[:span], span)
        return Devices(_gpus(0, span), 1, _form(found))
    if config.num_devices > len(memory):
        raise BadConfiguration(
            f"NUM_SHARD must be at most {len(memory)}, the GPUs that are visible. Given: {config.num_devices}"
        )
    usable = memory[: config.num_devices or len(memory)]
    found = _share(config, needs, usable, max(1, len(usable) // config.num_engines))
    if found.span * config.num_engines > len(usable):
        raise BadConfiguration(
            f"ENGINE_REPLICAS must be at most {found.engines}: an engine takes {found.span} of {len(usable)} GPUs. "
            f"Given: {config.num_engines}"
        )
    return Devices(_gpus(config.index * found.span, found.span), found.engines, _form(found))


def _gpus(first: int, span: int) -> tuple[torch.device, ...]:
    return tuple(torch.device("cuda", first + i) for i in range(span))


def _form(found: Share) -> Quantize:
    return Quantize(found.weights.form) if found.weights.form in AUTO_FORMS else Quantize.AUTO


def _share(config: EngineConfig, needs: Needs, memory: tuple[int, ...], most: int) -> Share:
    """The form and the GPUs of an engine, at most `most` of these, judged by the GPU with the least memory.

    `auto` weighs its forms only where the number of engines is free. If even `most` do not suffice, the loader refuses.
    """
    smallest = min(memory, default=0)
    if len(needs.forms) == 1:
        return sharing.share(needs.forms[0], smallest, max(1, len(memory)), most)
    found = sharing.candidates(needs.forms, needs.key_bytes, smallest, max(1, len(memory)), most)
    is_given = config.has_given_engines or config.num_engines > 1
    taken = sharing.weigh(found, is_engines_given=is_given)
    logger.info(
        "HF_MODEL_QUANTIZE=auto weighed %s (decode steps of all engines in the time that a GPU reads a TB); taken: %s",
        "; ".join(map(str, found)),
        taken.weights.form,
    )
    return taken


def needs_of(directory: Path, config: EngineConfig, dtype: torch.dtype, capability: int | None) -> Needs:
    """What the checkpoint in `directory` takes once loaded as `dtype` on this compute capability, None for CPU.

    From config.json and the files' size; a config.json that is not understood counts as linear layers alone. Raises
    BadModel if there is none.
    """
    if is_converted(directory) and stays_as_stored(config.quantize, dtype):
        num_bytes = _gguf_bytes(read_manifest(directory), dtype, capability or 0)
        return Needs((Weights("gguf", num_bytes, num_bytes),))
    on_disk = language_bytes(directory)
    values = text_values(read_json(directory / "config.json"))
    of_stored = stored_settings(values, directory)
    counts = _counts(values, on_disk, is_stored=of_stored is not None)
    in_bfloat16 = dtype is torch.bfloat16
    if of_stored is not None:
        form = stored(of_stored, capability, in_bfloat16=in_bfloat16)
        if form.is_stored or form.refused or not counts.total:
            return Needs((Weights(form.name, on_disk, on_disk),))
        return Needs((_weights(form, counts, dtype),))
    wanted: tuple[Form, ...] = (quantized(config.quantize, capability, in_bfloat16=in_bfloat16),)
    if config.quantize is Quantize.AUTO:
        wanted = auto_forms(capability, in_bfloat16=in_bfloat16)
    try:
        length = config.max_model_len or min(max_positions(values) or USUAL_TOKENS, USUAL_TOKENS)
        key_bytes = length * key_bytes_per_token(values, _kv_itemsize(config, dtype))
        if config.reserves_adapters:
            key_bytes += adapter_bytes(values, config.max_adapters, config.max_adapter_rank, dtype.itemsize)
    except (KeyError, TypeError, ValueError, ArithmeticError):
        key_bytes = 0
    return Needs(tuple(_weights(form, counts, dtype) for form in wanted), key_bytes)


def weight_bytes(form: StoredForm, directory: Path, dtype: torch.dtype, device: torch.device) -> float | None:
    """Bytes that a weight stored in `form` takes on `device`, on average; None for those of `dtype`."""
    capability = capability_of(device)
    if capability is None:
        return None
    if not is_converted(directory):
        return stored(form.values, capability, in_bfloat16=dtype is torch.bfloat16).linears
    manifest = read_manifest(directory)
    num_weights = sum(prod(tensor.shape) for tensor in manifest.tensors.values())
    return _gguf_bytes(manifest, dtype, capability) / max(1, num_weights)


def _gguf_bytes(manifest: Manifest, dtype: torch.dtype, capability: int) -> int:
    return gguf_bytes(manifest.tensors, dtype.itemsize, capability, in_bfloat16=dtype is torch.bfloat16)


def _kv_itemsize(config: EngineConfig, dtype: torch.dtype) -> int:
    codes = choose_kv_codes(config.kv_cache_dtype, dtype, torch.device("cuda"))
    return (codes or dtype).itemsize


def _weights(form: Form, counts: WeightCounts, dtype: torch.dtype) -> Weights:
    size = dtype.itemsize
    return Weights(form.name, form.num_bytes(counts, size), form.moved_bytes(counts, size))


def _counts(values: Mapping[str, Any], on_disk: int, *, is_stored: bool) -> WeightCounts:
    """Numbers of weights, of as many as lie on disk if they lie there in one dtype."""
    try:
        counts = count_weights(values)
    except (KeyError, TypeError, ValueError, ArithmeticError):
        counts = WeightCounts(0, 0, 0)
    kept: Any = getattr(torch, str(values.get("dtype") or values.get("torch_dtype") or "float32"), None)
    if is_stored or not on_disk or not isinstance(kept, torch.dtype):
        return counts
    total = on_disk // kept.itemsize
    return counts.scaled_to(total) if counts.total else WeightCounts(total, 0, 0)


def with_free_memory(devices: Devices, needs: Needs) -> Devices:
    """`devices` with a later form of `auto` if another program leaves too little of their memory for the one chosen."""
    taken = next((i for i, each in enumerate(needs.forms) if each.form == devices.quantize), len(needs.forms))
    forms = needs.forms[taken:]
    if len(forms) < 2:
        return devices
    free = sum(torch.cuda.mem_get_info(device)[0] for device in devices.own)
    fitting = (each for each in forms if each.num_bytes + needs.key_bytes <= free * KEYS_SHARE)
    chosen = next(fitting, forms[-1])
    if chosen is forms[0]:
        return devices
    logger.warning(
        "HF_MODEL_QUANTIZE=auto: %s, because only %d MiB are free on this engine's GPUs and %d MiB are needed",
        *(chosen.form, free >> 20, (forms[0].num_bytes + needs.key_bytes) >> 20),
    )
    return dataclasses.replace(devices, quantize=Quantize(chosen.form))


def memory_limits(devices: Devices) -> dict[int, int]:
    """accelerate's `max_memory`: this engine's GPUs, but not CPU or disk, where a step would take seconds."""
    return {device.index: int(torch.cuda.mem_get_info(device)[0] * WEIGHTS_SHARE) for device in devices.own}
