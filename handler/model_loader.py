"""Weights from disk to a transformers model on the device. The only file that names bitsandbytes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from handler.config import EngineConfig, Quantize
from handler.errors import BadConfiguration, BadModel
from handler.placement import Devices, choose_devices, free_gpu_bytes, memory_limits, weight_bytes

logger = logging.getLogger(__name__)

# Longest sequence of a model that names none, unless MAX_TOTAL_TOKENS does; TGI's launcher takes the same.
UNBOUNDED_CONTEXT = 4096

Progress = Callable[[int, str], None]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model ready to run, and what its configuration says about generating with it."""

    model: PreTrainedModel
    text_config: Any
    eos_token_ids: frozenset[int]
    dtype: torch.dtype
    device: torch.device
    quantize: Quantize
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
    quantize = _choose_quantize(config.quantize, device, model_config)
    progress(200, f"loading weights on {device} as {str(dtype).removeprefix('torch.')}")
    model = _load_weights(config, directory, model_config, dtype, devices, quantize)
    model.eval()
    text_config = model.config.get_text_config()
    return LoadedModel(
        model=model,
        text_config=text_config,
        eos_token_ids=_eos_token_ids(directory, text_config),
        dtype=dtype,
        device=device,
        quantize=quantize,
        max_position_embeddings=_max_positions(text_config) or config.max_model_len or UNBOUNDED_CONTEXT,
        num_parameters=model.num_parameters(),
        other_devices=devices.own[1:],
    )


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
        warnings.simplefilter("always")
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


def _read_config(directory: Path, trust_remote_code: bool) -> Any:
    try:
        found = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BadModel(f"{directory / 'config.json'} was not understood: {_one_line(exc)}") from exc
    return found


def _choose_quantize(wanted: Quantize, device: torch.device, model_config: Any) -> Quantize:
    """A checkpoint that is quantised already keeps its own form; `auto` leaves weights as they are on CPU."""
    if getattr(model_config, "quantization_config", None) is not None:
        if wanted not in {Quantize.AUTO, Quantize.NONE}:
            logger.warning("the checkpoint is quantised already; HF_MODEL_QUANTIZE=%s is not applied", wanted)
        return Quantize.NONE
    return Quantize.NONE if wanted is Quantize.AUTO else wanted


def _load_weights(
    config: EngineConfig,
    directory: Path,
    model_config: Any,
    dtype: torch.dtype,
    devices: Devices,
    quantize: Quantize,
) -> PreTrainedModel:
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "config": model_config}
    if quantize is not Quantize.NONE:
        options["quantization_config"] = _bitsandbytes_config(quantize, dtype)
    device = devices.own[0]
    if len(devices.own) > 1:
        options |= {"device_map": "balanced", "max_memory": memory_limits(devices, free_gpu_bytes())}
    elif device.type != "cpu":
        options["device_map"] = {"": device}
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            directory, trust_remote_code=config.trust_remote_code, **options
        )
    except torch.OutOfMemoryError as exc:
        raise BadConfiguration(f"{device} has too little memory for the weights: {_one_line(exc)}") from exc
    except Exception as exc:  # safetensors, transformers and bitsandbytes share no base class
        raise BadModel(f"the weights in {directory} could not be loaded: {_one_line(exc)}") from exc
    if len(devices.own) > 1:
        _check_spread(model, devices)
    return model


def _check_spread(model: PreTrainedModel, devices: Devices) -> None:
    """Raises BadConfiguration if a part found no room on the GPUs."""
    parts: dict[str, object] = vars(model)["hf_device_map"]
    elsewhere = {str(part) for part in parts.values()} & {"cpu", "disk"}
    if elsewhere:
        raise BadConfiguration(f"{len(devices.own)} GPUs have too little memory for the weights")


def not_finite(model: torch.nn.Module) -> str | None:
    """The first weight that holds NaN or infinity, by name. Reads them all."""
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            return name
    return None


def _bitsandbytes_config(quantize: Quantize, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if quantize is Quantize.INT8:
        return BitsAndBytesConfig(load_in_8bit=True)
    kind = "nf4" if quantize is Quantize.NF4 else "fp4"
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=dtype)


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
