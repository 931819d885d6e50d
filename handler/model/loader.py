"""Weights from disk to a transformers model on the device. The only file that names bitsandbytes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from handler.linears.choice import computes_blocks
from handler.linears.packed_file import packed_weights
from handler.linears.packed_model import dense_bytes, pack, quantise_and_pack
from handler.linears.weight_blocks import BLOCKS_FILE
from handler.model.device import choose_device, choose_dtype
from handler.model.kv_size import kv_bytes_per_token
from handler.model.machine_memory import available_memory_bytes
from handler.model.placement import Devices, choose_devices, free_gpu_bytes, memory_limits, weight_bytes
from handler.model.quantize import (
    BITSANDBYTES,
    BLOCK_BITS,
    bitsandbytes_config,
    least_lossy,
    resolve,
    skipped_modules,
    stored_form,
    weight_sizes,
)
from handler.seam.config import EngineConfig, Quantize
from handler.seam.errors import BadConfiguration, BadModel

logger = logging.getLogger(__name__)

# Longest sequence of a model that names none, unless MAX_TOTAL_TOKENS does; TGI's launcher takes the same.
UNBOUNDED_CONTEXT = 4096
# Of free memory on GPUs, what weights and KV memory may take; the rest is for activations.
_CUDA_FRACTION = 0.85
# Of available memory, what dense weights beside packed ones may take.
_DENSE_FRACTION = 0.25

Progress = Callable[[int, str], None]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model ready to run, and what its configuration says about generating with it.

    `quantize` is how the weights are stored: a name of HF_MODEL_QUANTIZE, a checkpoint's own `quant_method`, or gguf.
    """

    model: PreTrainedModel
    text_config: Any
    eos_token_ids: frozenset[int]
    dtype: torch.dtype
    device: torch.device
    quantize: str
    max_position_embeddings: int
    num_parameters: int
    other_devices: tuple[torch.device, ...] = ()

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All that hold weights; `device` is the first and takes the input."""
        return (self.device, *self.other_devices)


def place(config: EngineConfig, directory: Path) -> Devices:
    """The devices for the checkpoint in `directory`. Raises BadConfiguration."""
    device = choose_device(config.device)
    if device.type != "cuda":
        return choose_devices(config, device, 0, ())
    size = weight_bytes(directory, config.quantize, choose_dtype(config.dtype, device))
    return choose_devices(config, device, size, free_gpu_bytes())


def load(config: EngineConfig, directory: Path, progress: Progress, devices: Devices | None = None) -> LoadedModel:
    """Load the checkpoint in `directory` onto `devices`. Raises BadModel or BadConfiguration with one sentence."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    devices = devices or Devices((choose_device(config.device),))
    device = devices.own[0]
    dtype = choose_dtype(config.dtype, device)
    model_config = _read_config(directory, config.trust_remote_code)
    quantize = resolve(config.quantize, device, model_config)
    progress(200, f"loading weights on {device} as {str(dtype).removeprefix('torch.')}")
    model, stored = _load_weights(config, directory, model_config, dtype, devices, quantize)
    model.eval()
    num_parameters = model.num_parameters()
    if device.type == "cpu" and stored == Quantize.NONE:
        stored = _pack(model, directory, Path(config.cache_dir), quantize)
    text_config = model.config.get_text_config()
    return LoadedModel(
        model=model,
        text_config=text_config,
        eos_token_ids=_eos_token_ids(directory, text_config),
        dtype=dtype,
        device=device,
        quantize=stored,
        max_position_embeddings=_max_positions(text_config) or config.max_model_len or UNBOUNDED_CONTEXT,
        num_parameters=num_parameters,
        other_devices=devices.own[1:],
    )


def _read_config(directory: Path, trust_remote_code: bool) -> Any:
    try:
        found = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BadModel(f"{directory / 'config.json'} was not understood: {_one_line(exc)}") from exc
    return found


def _load_weights(
    config: EngineConfig,
    directory: Path,
    model_config: Any,
    dtype: torch.dtype,
    devices: Devices,
    quantize: Quantize,
) -> tuple[PreTrainedModel, str]:
    """The model, and how transformers has stored its weights."""
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "config": model_config}
    stored = stored_form(model_config) or str(Quantize.NONE)
    device = devices.own[0]
    if len(devices.own) > 1:
        options |= {"device_map": "balanced", "max_memory": memory_limits(devices, free_gpu_bytes())}
    elif device.type != "cpu":
        options["device_map"] = {"": device}
    try:
        if quantize in BITSANDBYTES or (quantize is Quantize.AUTO and device.type == "cuda"):
            chosen, options["quantization_config"] = _plan(config, model_config, dtype, devices, quantize)
            stored = str(chosen)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            directory, trust_remote_code=config.trust_remote_code, **options
        )
    except torch.OutOfMemoryError as exc:
        raise BadConfiguration(f"{device} has too little memory for the weights: {_one_line(exc)}") from exc
    except Exception as exc:  # safetensors, transformers and bitsandbytes share no base class
        form = "" if stored == Quantize.NONE else f", stored as {stored},"
        raise BadModel(f"the weights in {directory}{form} could not be loaded: {_one_line(exc)}") from exc
    if len(devices.own) > 1:
        _check_spread(model, devices)
    return model, stored


def _plan(
    config: EngineConfig, model_config: Any, dtype: torch.dtype, devices: Devices, quantize: Quantize
) -> tuple[Quantize, Any]:
    """What bitsandbytes shall do, decided on the model without its weights: the form, and its configuration if any."""
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(model_config, trust_remote_code=config.trust_remote_code)
    if quantize is Quantize.AUTO:
        text_config = model_config.get_text_config()
        length = config.max_model_len or min(_max_positions(text_config) or UNBOUNDED_CONTEXT, UNBOUNDED_CONTEXT)
        free = sum(torch.cuda.mem_get_info(device)[0] for device in devices.own)
        sizes = weight_sizes(skeleton, skipped_modules(skeleton, Quantize.NF4))
        kv_bytes = length * kv_bytes_per_token(text_config, dtype)
        quantize = least_lossy(sizes, dtype, kv_bytes, int(free * _CUDA_FRACTION))
    if quantize is Quantize.NONE:
        return quantize, None
    return quantize, bitsandbytes_config(quantize, dtype, skipped_modules(skeleton, quantize))


def _pack(model: PreTrainedModel, directory: Path, cache_dir: Path, quantize: Quantize) -> str:
    """Packed weights for CPU, as the GGUF file had them or quantised now; how the weights are stored afterwards."""
    in_float32 = model.dtype is torch.float32
    # In float32 torch's kernel is six times slower than dense weights, and those, rounded to bfloat16 when they were
    # written, would be other weights beside exact ones.
    wanted = {Quantize.INT4_BLOCKS} if in_float32 else {Quantize.AUTO, Quantize.INT4_BLOCKS}
    given = (directory / BLOCKS_FILE).is_file() and quantize in wanted
    if not given and quantize not in BLOCK_BITS:
        return str(Quantize.NONE)
    keep_dense = (
        dense_bytes(model) <= _DENSE_FRACTION * available_memory_bytes()
        and not (given and in_float32)
        and not computes_blocks(model.dtype)
    )
    if given:
        count = pack(model, packed_weights(directory, cache_dir, model.dtype), keep_dense=keep_dense)
        stored = "gguf"
    else:
        count = quantise_and_pack(model, BLOCK_BITS[quantize], keep_dense=keep_dense)
        stored = str(quantize)
    logger.info(
        "%d linear layers packed (%s), %s", count, stored, "dense weights kept" if keep_dense else "no dense weights"
    )
    return stored


def _check_spread(model: PreTrainedModel, devices: Devices) -> None:
    """Raises BadConfiguration if a part found no room on the GPUs."""
    # Transformers says where the parts are only if they are in several places.
    parts: dict[str, object] = vars(model).get("hf_device_map", {"": model.device.type})
    elsewhere = {str(part) for part in parts.values()} & {"cpu", "disk"}
    if elsewhere:
        raise BadConfiguration(f"{len(devices.own)} GPUs have too little memory for the weights")


def not_finite(model: torch.nn.Module) -> str | None:
    """The first weight that holds NaN or infinity, by name. Reads them all, packed ones by their scales."""
    for name, weight in (*model.named_parameters(), *model.named_buffers()):
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            return name
    return None


def _eos_token_ids(directory: Path, text_config: Any) -> frozenset[int]:
    """The end-of-sequence ids of generation_config.json, else of config.json; a model may have none."""
    found = None
    if (directory / "generation_config.json").is_file():
        try:
            found = GenerationConfig.from_pretrained(directory).eos_token_id
        except (OSError, ValueError) as exc:
            raise BadModel(f"{directory / 'generation_config.json'} was not understood: {_one_line(exc)}") from exc
    if found is None:
        found = getattr(text_config, "eos_token_id", None)
    if found is None:
        return frozenset()
    return frozenset(found) if isinstance(found, list | tuple) else frozenset({int(found)})


def _max_positions(text_config: Any) -> int:
    """0 if the configuration names no longest sequence: state-space families have none."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        found = getattr(text_config, name, None)
        if isinstance(found, int) and found > 0:
            return found
    return 0


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:300] or type(exc).__name__
