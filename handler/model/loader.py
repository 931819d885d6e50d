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
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from handler.linears.blocks_file import BLOCKS_FILE
from handler.linears.choice import computes_blocks
from handler.linears.packed_file import packed_weights
from handler.linears.packed_model import dense_bytes, pack, quantise_and_pack
from handler.model.checks.causal import check_causal
from handler.model.checks.published_values import check_form, settle
from handler.model.checks.remote_code import follows_code
from handler.model.checks.weight_check import check_weights, unconverted
from handler.model.checks.weight_index import complete_index
from handler.model.device import choose_device, choose_dtype
from handler.model.end_tokens import eos_token_ids
from handler.model.int4_quantizer import BlocksConfig
from handler.model.kv_size import kv_bytes_per_token
from handler.model.location import read_json
from handler.model.machine_memory import available_memory_bytes
from handler.model.placement import (
    Devices,
    Needs,
    choose_devices,
    gpu_bytes,
    memory_limits,
    needs_of,
    with_free_memory,
)
from handler.model.quantize import (
    BITSANDBYTES,
    BLOCK_BITS,
    bitsandbytes_config,
    forms_of_auto,
    least_lossy,
    resolve,
    skipped_modules,
    stored_form,
    weight_sizes,
)
from handler.model.stored_bitsandbytes import dequantise_odd, drop_threshold, silence_bitsandbytes
from handler.model.stored_fp8 import prepare_fp8, replace_fp8
from handler.seam.config import EngineConfig, Quantize
from handler.seam.errors import BadConfiguration, BadModel, one_line
from model_memory.sharing import KEYS_SHARE

logger = logging.getLogger(__name__)

# Context length if neither the model nor MAX_TOTAL_TOKENS gives one; the same as TGI's launcher.
UNBOUNDED_CONTEXT = 4096
# Share of free GPU memory for weights and KV memory; the rest is for activations.
_CUDA_FRACTION = KEYS_SHARE
# Share of available memory for dense weights kept beside packed ones.
_DENSE_FRACTION = 0.25

Progress = Callable[[int, str], None]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model ready to run, with the settings of its configuration that generation needs.

    `quantize` says how the weights are stored: an HF_MODEL_QUANTIZE name, a checkpoint's own `quant_method`, or gguf.
    """

    model: PreTrainedModel
    text_config: Any
    eos_token_ids: frozenset[int]
    dtype: torch.dtype
    device: torch.device
    quantize: str
    max_position_embeddings: int
    other_devices: tuple[torch.device, ...] = ()

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All devices that hold weights; the first, `device`, takes the input."""
        return (self.device, *self.other_devices)


def place(config: EngineConfig, directory: Path) -> Devices:
    """The devices for the checkpoint in `directory`; the first becomes CUDA's current one. Raises BadConfiguration."""
    device = choose_device(config.device)
    if device.type != "cuda":
        return choose_devices(config, device, Needs(()), ())
    major, minor = torch.cuda.get_device_capability(device)
    needs = needs_of(directory, config, choose_dtype(config.dtype, device), major * 10 + minor)
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
    devices = devices or Devices((choose_device(config.device),))
    device = devices.own[0]
    dtype = choose_dtype(config.dtype, device)
    trusted = follows_code(read_json(directory / "config.json"), trust_remote_code=config.trust_remote_code)
    config = msgspec.structs.replace(config, trust_remote_code=trusted)
    model_config = _read_config(directory, trusted)
    quantize = resolve(config.quantize, device, dtype, model_config)
    quantize = devices.quantize if quantize is Quantize.AUTO else quantize
    progress(200, f"loading weights on {device} as {str(dtype).removeprefix('torch.')}")
    model, stored = _load_weights(config, directory, model_config, dtype, devices, quantize)
    model.eval()
    dtype = _kept_dtype(model, stored, dtype)
    if device.type == "cpu" and stored == Quantize.NONE:
        stored = _pack(model, directory, Path(config.cache_dir), quantize)
    text_config = model.config.get_text_config()
    return LoadedModel(
        model=model,
        text_config=text_config,
        eos_token_ids=eos_token_ids(directory, tokens_dir or directory, text_config),
        dtype=dtype,
        device=device,
        quantize=stored,
        max_position_embeddings=_max_positions(text_config) or config.max_model_len or UNBOUNDED_CONTEXT,
        other_devices=devices.own[1:],
    )


def _read_config(directory: Path, trust_remote_code: bool) -> Any:
    try:
        found = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except Exception as exc:  # each family checks its values in its own way
        raise BadModel(f"{directory / 'config.json'} was not understood: {one_line(exc)}") from exc
    check_causal(found, directory)
    check_form(found, directory)
    settle(found)
    return found


def _load_weights(
    config: EngineConfig,
    directory: Path,
    model_config: Any,
    dtype: torch.dtype,
    devices: Devices,
    quantize: Quantize,
) -> tuple[PreTrainedModel, str]:
    """The model, and the form in which transformers has stored its weights. Raises BadModel or BadConfiguration."""
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "config": model_config}
    # Of generation_config.json only the ids of ends count (end_tokens.py), so no other value may stop the start.
    options["generation_config"] = transformers.GenerationConfig()
    # Weights of the wrong shape are reported below, by name.
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    stored = stored_form(model_config) or str(Quantize.NONE)
    silence_bitsandbytes()
    drop_threshold(model_config)
    device = devices.own[0]
    prepare_fp8(model_config, device, dtype)
    if len(devices.own) > 1:
        options |= {"device_map": "balanced", "max_memory": memory_limits(devices)}
    elif device.type != "cpu":
        options["device_map"] = {"": device}
    try:
        on_gpu = device.type == "cuda" and (quantize is Quantize.AUTO or quantize in BLOCK_BITS)
        if quantize in BITSANDBYTES or on_gpu:
            chosen, options["quantization_config"] = _plan(config, model_config, dtype, devices, quantize)
            stored = str(chosen)
        with complete_index(directory) as complete:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                complete, trust_remote_code=config.trust_remote_code, **options
            )
    except torch.OutOfMemoryError as exc:
        raise BadConfiguration(f"{device} has too little memory for the weights: {one_line(exc)}") from exc
    except Exception as exc:  # the libraries that load share no base class
        if stored_form(model_config) and isinstance(exc, ImportError):
            raise BadModel(
                f"the weights in {directory} are stored as {stored}, and the package that loads such weights is not "
                "installed here; take the same model in bfloat16 or in a form of bitsandbytes, or add the package that "
                f"transformers {transformers.__version__} needs for {stored} to an image of your own"
            ) from exc
        form = "" if stored == Quantize.NONE else f", stored as {stored},"
        if name := unconverted(exc):
            raise BadModel(f"the weights in {directory}{form} do not make up the weight {name}") from exc
        raise BadModel(f"the weights in {directory}{form} could not be loaded: {one_line(exc)}") from exc
    model: PreTrainedModel = loaded[0]
    check_weights(model, loaded[1], str(directory))
    if len(devices.own) > 1:
        _check_spread(model, devices)
    if device.type == "cpu":
        dequantise_odd(model)
    replace_fp8(model)
    return model, stored


def _is_dense(weight: torch.Tensor) -> bool:
    return weight.dtype in {torch.float32, torch.float16, torch.bfloat16}


def _convert_bfloat16(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Make parameters in bfloat16 parameters of `dtype`, one by one; tied ones stay tied.

    Not by `Module.to`, which would round the rotary frequencies, a buffer in float32, too.
    """
    made: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if weight.dtype is not torch.bfloat16 or dtype is torch.bfloat16:
                continue
            if weight not in made:
                made[weight] = torch.nn.Parameter(weight.detach().to(dtype), requires_grad=False)
            setattr(module, name, made[weight])


def _kept_dtype(model: PreTrainedModel, stored: str, wanted: torch.dtype) -> torch.dtype:
    """The dtype that the model computes in: `wanted`, where transformers leaves a choice.

    It does not for some stored forms: bitsandbytes computes in the dtype that it is stored in, AWQ in float16.
    """
    if stored != Quantize.NONE and all(map(_is_dense, model.parameters())):
        _convert_bfloat16(model, wanted)  # dequantised at load, to bfloat16 whatever was wanted: fp8
    if stored == Quantize.NONE or model.dtype is wanted:
        return wanted
    kept, asked = (str(dtype).removeprefix("torch.") for dtype in (model.dtype, wanted))
    logger.info("the checkpoint is stored as %s in %s and computes in it, not in %s", stored, kept, asked)
    return model.dtype


def _plan(
    config: EngineConfig, model_config: Any, dtype: torch.dtype, devices: Devices, quantize: Quantize
) -> tuple[Quantize, Any]:
    """The form of the weights and its transformers configuration, if any, chosen from the model without its weights."""
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(model_config, trust_remote_code=config.trust_remote_code)
    if quantize is Quantize.AUTO:
        text_config = model_config.get_text_config()
        length = config.max_model_len or min(_max_positions(text_config) or UNBOUNDED_CONTEXT, UNBOUNDED_CONTEXT)
        free = sum(torch.cuda.mem_get_info(device)[0] for device in devices.own)
        sizes = weight_sizes(skeleton, Quantize.NF4)
        kv_bytes = length * kv_bytes_per_token(text_config, dtype)
        forms = forms_of_auto(devices.own[0], dtype)
        quantize = least_lossy(sizes, dtype, kv_bytes, int(free * _CUDA_FRACTION), forms)
    if quantize is Quantize.NONE:
        return quantize, None
    if quantize in BLOCK_BITS:
        return quantize, BlocksConfig(BLOCK_BITS[quantize])
    return quantize, bitsandbytes_config(quantize, dtype, skipped_modules(skeleton, quantize))


def _pack(model: PreTrainedModel, directory: Path, cache_dir: Path, quantize: Quantize) -> str:
    """Pack weights for CPU, from the GGUF file's blocks or quantised now; returns how they are stored afterwards."""
    in_float32 = model.dtype is torch.float32
    # In float32, AUTO does not pack: torch's kernel is six times slower than dense weights. Nor are dense weights kept
    # beside packed ones, as they were rounded to bfloat16 on disk and would differ.
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


def _max_positions(text_config: Any) -> int:
    """The longest sequence that the configuration allows; 0 if it gives none, as in state-space families."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        found = getattr(text_config, name, None)
        if isinstance(found, int) and found > 0:
            return found
    return 0
