"""Loads weights from disk into a transformers model on the device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
import transformers
from transformers import PreTrainedModel

import handler.formats.gguf
from handler.formats.gguf.manifest import is_converted
from handler.linears.choice import computes_blocks
from handler.linears.linear import is_plain
from handler.linears.packed_file import PackedFile
from handler.model.checks.model_config import read_config
from handler.model.checks.remote_code import follows_code
from handler.model.checks.weight_check import check_weights, unconverted
from handler.model.device import capability_of, choose_device, choose_dtype
from handler.model.end_tokens import eos_token_ids
from handler.model.gguf.needs import stays_as_stored
from handler.model.gguf_model import SHIPPED
from handler.model.json_file import read_json
from handler.model.kv_size import choose_kv_codes
from handler.model.loading.layer_quantizer import LayersConfig
from handler.model.loading.single_experts import join_experts
from handler.model.loading.text_part import served_model, text_skeleton
from handler.model.loading.weight_source import StoredForm, open_weights, take_form
from handler.model.machine_memory import available_memory_bytes, trim_heap
from handler.model.placement import (
    Devices,
    Needs,
    choose_devices,
    gpu_bytes,
    memory_limits,
    needs_of,
    weight_bytes,
    with_free_memory,
)
from handler.model.quantize import (
    BITSANDBYTES,
    BLOCK_BITS,
    bitsandbytes_config,
    resolve,
    skipped_modules,
    stored_form,
)
from handler.model.stored_bitsandbytes import silence_bitsandbytes
from handler.seam.config import EngineConfig, Quantize
from handler.seam.errors import BadConfiguration, BadModel, one_line
from handler.seam.source_digest import source_digest
from model_memory.key_bytes import max_positions

logger = logging.getLogger(__name__)

# Context length if neither the model nor MAX_TOTAL_TOKENS gives one; the same as TGI's launcher.
UNBOUNDED_CONTEXT = 4096
# Share of available memory for dense weights kept beside packed ones.
_DENSE_FRACTION = 0.25

# How `LoadedModel.quantize` calls the weights of a .gguf file as they are.
GGUF = "gguf"

Progress = Callable[[int, str], None]


@dataclass(frozen=True, slots=True)
class Beside:
    """Memory of another model on the first device, in bytes: of a token's keys and values, and of its steps."""

    key_bytes: int = 0
    step_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model ready to run, with the settings of its configuration that generation needs.

    `quantize` says how the weights are stored: an HF_MODEL_QUANTIZE name, a checkpoint's own `quant_method`, or gguf.
    `kv_codes` is the type of 8 bits in which keys and values are kept; None if they are kept as `dtype`. `beside` is
    what a draft model takes of the memory for keys and steps.
    """

    model: PreTrainedModel
    text_config: Any
    eos_token_ids: frozenset[int]
    dtype: torch.dtype
    device: torch.device
    quantize: str
    max_position_embeddings: int
    other_devices: tuple[torch.device, ...] = ()
    kv_codes: torch.dtype | None = None
    beside: Beside = Beside()

    @property
    def kv_dtype(self) -> torch.dtype:
        """Type of keys and values in KV memory."""
        return self.kv_codes or self.dtype

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All devices that hold weights; the first, `device`, takes the input."""
        return (self.device, *self.other_devices)


def place(config: EngineConfig, directory: Path, draft: tuple[EngineConfig, Path] | None = None) -> Devices:
    """The devices for the checkpoint in `directory`; the first becomes CUDA's current one.

    `draft` is a model, with its settings, that the first device holds too. Raises BadConfiguration.
    """
    device = choose_device(config.device)
    if device.type != "cuda":
        return choose_devices(config, device, Needs(()), ())
    dtype, capability = choose_dtype(config.dtype, device), capability_of(device)
    needs = needs_of(directory, config, dtype, capability)
    if draft is not None:
        needs = needs.beside(needs_of(draft[1], draft[0], dtype, capability))
    devices = choose_devices(config, device, needs, gpu_bytes())
    # torch makes the stream that captures graphs on the current device.
    torch.cuda.set_device(devices.own[0])
    return with_free_memory(devices, needs)


def load(
    config: EngineConfig,
    directory: Path,
    progress: Progress,
    devices: Devices | None = None,
    tokens_dir: Path | None = None,
) -> LoadedModel:
    """Load the checkpoint in `directory` onto `devices`. `tokens_dir` holds tokenizer.json if `directory` does not.

    Raises BadModel or BadConfiguration with one sentence.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    devices = devices or place(config, directory)
    device = devices.own[0]
    dtype = choose_dtype(config.dtype, device)
    trusted = follows_code(read_json(directory / "config.json"), trust_remote_code=config.trust_remote_code)
    config = msgspec.structs.replace(config, trust_remote_code=trusted)
    model_config = read_config(directory, trust_remote_code=trusted)
    quantize = resolve(config.quantize, device, dtype, model_config)
    choose_kv_codes(config.kv_cache_dtype, dtype, device)
    quantize = devices.quantize if quantize is Quantize.AUTO else quantize
    progress(200, f"loading weights on {device} as {str(dtype).removeprefix('torch.')}")
    model, stored = _load_weights(config, directory, model_config, dtype, devices, quantize)
    model.eval()
    trim_heap()
    dtype = _kept_dtype(model, stored, dtype)
    text_config = model.config.get_text_config()
    return LoadedModel(
        model=model,
        text_config=text_config,
        eos_token_ids=eos_token_ids(directory, tokens_dir or directory, text_config),
        dtype=dtype,
        device=device,
        quantize=stored,
        max_position_embeddings=max_positions(text_config.to_dict()) or config.max_model_len or UNBOUNDED_CONTEXT,
        other_devices=devices.own[1:],
        kv_codes=choose_kv_codes(config.kv_cache_dtype, dtype, device),
    )


def _load_weights(
    config: EngineConfig,
    directory: Path,
    model_config: Any,
    dtype: torch.dtype,
    devices: Devices,
    quantize: Quantize,
) -> tuple[PreTrainedModel, str]:
    """The model, and the form in which its weights are stored. Raises BadModel or BadConfiguration."""
    on_cpu = devices.own[0].type == "cpu"
    stored = stored_form(model_config)
    form = take_form(model_config, devices.own[0])
    if is_converted(directory) and stays_as_stored(quantize, dtype):
        stored, form = GGUF, StoredForm(GGUF, {})
    options = _options(dtype, devices)
    try:
        skeleton = text_skeleton(model_config, trust_remote_code=config.trust_remote_code)
        if form is not None or quantize in BLOCK_BITS:
            keep_dense = on_cpu and (form is None or stored == GGUF) and _has_room_for_dense(skeleton, dtype)
            packed = _packed_file(config, directory, dtype) if on_cpu and stored == GGUF else None
            options["quantization_config"] = LayersConfig(
                None if form else BLOCK_BITS[quantize],
                stored,
                dtype,
                keep_dense=keep_dense,
                packed=packed,
                stored_bytes=None if form is None else weight_bytes(form, directory, dtype, devices.own[0]),
            )
        elif quantize in BITSANDBYTES:
            silence_bitsandbytes()
            options["quantization_config"] = bitsandbytes_config(quantize, dtype, skipped_modules(skeleton, quantize))
        with open_weights(directory, form, devices.own[0], dtype) as weights:
            options["state_dict"] = join_experts(weights, skeleton)
            loaded: Any = type(skeleton).from_pretrained(None, config=skeleton.config, **options)
    except Exception as exc:  # the libraries that load share no base class
        raise _told(exc, directory, stored, devices.own[0]) from exc
    model: PreTrainedModel = loaded[0]
    check_weights(model, loaded[1], str(directory))
    if len(devices.own) > 1:
        _check_spread(model, devices)
    model = served_model(model)
    return model, stored or str(quantize if "quantization_config" in options else Quantize.NONE)


def _told(exc: Exception, directory: Path, stored: str | None, device: torch.device) -> Exception:
    """The error to end the start with, in one sentence."""
    if isinstance(exc, BadModel | BadConfiguration):
        return exc
    if isinstance(exc, torch.OutOfMemoryError):
        return BadConfiguration(f"{device} has too little memory for the weights: {one_line(exc)}")
    form = "" if stored is None else f", stored as {stored},"
    if name := unconverted(exc):
        return BadModel(f"the weights in {directory}{form} do not make up the weight {name}")
    return BadModel(f"the weights in {directory}{form} could not be loaded: {one_line(exc)}")


def _options(dtype: torch.dtype, devices: Devices) -> dict[str, Any]:
    """Arguments of `from_pretrained` that no form of weights changes."""
    # Of generation_config.json only the ids of ends count (end_tokens.py), so no other value may stop the start.
    options: dict[str, Any] = {"dtype": dtype, "generation_config": transformers.GenerationConfig()}
    # Weights of the wrong shape are reported afterwards, by name.
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    if len(devices.own) > 1:
        options |= {"device_map": "balanced", "max_memory": memory_limits(devices)}
    elif devices.own[0].type != "cpu":
        options["device_map"] = {"": devices.own[0]}
    return options


def _kept_dtype(model: PreTrainedModel, stored: str, wanted: torch.dtype) -> torch.dtype:
    """The dtype that a model whose stored form transformers loads computes in: `wanted`, if it leaves a choice.

    bitsandbytes computes in the dtype that it is stored in, AWQ in float16.
    """
    if stored == Quantize.NONE or model.dtype is wanted:
        return wanted
    kept, asked = (str(dtype).removeprefix("torch.") for dtype in (model.dtype, wanted))
    logger.info("the checkpoint is stored as %s in %s and computes in it, not in %s", stored, kept, asked)
    return model.dtype


def _packed_file(config: EngineConfig, directory: Path, dtype: torch.dtype) -> PackedFile | None:
    """Where the layers of a converted GGUF file are kept: in the image, or in the cache. None in float32."""
    if dtype is torch.float32:
        return None
    readers = sorted(Path(handler.formats.gguf.__path__[0]).glob("*.py"))
    return PackedFile(directory.name, source_digest(readers), (SHIPPED, Path(config.cache_dir)), dtype)


def _has_room_for_dense(model: torch.nn.Module, dtype: torch.dtype) -> bool:
    """Whether dense weights stay beside packed ones: where the kernel for packed ones takes few rows only."""
    linears = (each for each in model.modules() if isinstance(each, torch.nn.Linear) and is_plain(each))
    dense_bytes = sum(linear.weight.nbytes for linear in linears)
    return not computes_blocks(dtype) and dense_bytes <= _DENSE_FRACTION * available_memory_bytes()


def _check_spread(model: PreTrainedModel, devices: Devices) -> None:
    """Raise BadConfiguration if a part of the model is not on a GPU."""
    # transformers sets hf_device_map only if the parts are on several devices.
    parts: dict[str, object] = vars(model).get("hf_device_map", {"": model.device.type})
    elsewhere = {str(part) for part in parts.values()} & {"cpu", "disk"}
    if elsewhere:
        raise BadConfiguration(f"{len(devices.own)} GPUs have too little memory for the weights")


def not_finite(model: torch.nn.Module) -> str | None:
    """Name of the first weight that holds NaN or infinity, else None. Checks packed weights by their scales."""
    for name, weight in (*model.named_parameters(), *model.named_buffers(), *_plain_tensors(model)):
        if weight.is_floating_point() and weight.element_size() > 1 and not bool(weight.isfinite().all()):
            return name
    return None


def _plain_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What layers over packed weights hold: tensors that are neither parameters nor buffers."""
    for path, module in model.named_modules():
        held = ((name, value) for name, value in vars(module).items() if isinstance(value, torch.Tensor))
        yield from ((f"{path}.{name}", value) for name, value in held)
