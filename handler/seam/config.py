"""Configuration of the engine process: one frozen struct, which PID 1 passes as a JSON file."""

from __future__ import annotations

import enum

import msgspec


class Quantize(enum.StrEnum):
    """How weights are stored. `AUTO` takes the least lossy form that leaves room for the KV cache.

    `INT8_BLOCKS` and `INT4_BLOCKS` are for CPU, and in bfloat16 for GPUs with torch's 4-bit product. The names from
    `EETQ` on are TGI's others; most apply only to checkpoints that are stored that way (handler/model/quantize.py
    resolves each).
    """

    NONE = "none"
    INT8 = "bitsandbytes"
    NF4 = "bitsandbytes-nf4"
    FP4 = "bitsandbytes-fp4"
    AUTO = "auto"
    INT8_BLOCKS = "int8"
    INT4_BLOCKS = "int4"
    EETQ = "eetq"
    GPTQ = "gptq"
    AWQ = "awq"
    MARLIN = "marlin"
    COMPRESSED_TENSORS = "compressed-tensors"
    FP8 = "fp8"
    EXL2 = "exl2"


class KVLayout(enum.StrEnum):
    """Memory layout of keys and values. `AUTO` takes pages on CUDA if they pass the trial, else slots."""

    AUTO = "auto"
    SLOTS = "slots"
    PAGED = "paged"


class KVCacheDtype(enum.StrEnum):
    """Type of keys and values in KV memory: TGI's names, vLLM's, and int8. `AUTO` is that of the weights.

    `FP8` and `FP8_E4M3` are vLLM's names of TGI's `FP8_E4M3FN`.
    """

    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    FP8 = "fp8"
    FP8_E4M3 = "fp8_e4m3"
    FP8_E4M3FN = "fp8_e4m3fn"
    FP8_E5M2 = "fp8_e5m2"


class ActivationDtype(enum.StrEnum):
    """In which numbers activations are multiplied by weights of 4 to 8 bits on CPU. `AUTO` is the model's dtype."""

    AUTO = "auto"
    INT8 = "int8"


class AdapterSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of LORA_ADAPTERS. `path` is a directory or a hub id; `name` is what requests call the adapter."""

    name: str
    path: str
    revision: str | None = None


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the engine. Zero or None means: derive it from the model and the device.

    `model` is a directory, a .gguf file, a hub id, or empty for the bundled model. Bounds, in tokens: `max_model_len`
    for prompt plus completion of one sequence, `max_num_batched_tokens` for one step, `max_waiting_tokens` for all
    queued prompts together, `kv_capacity_tokens` for all KV memory. In sequences: `max_num_seqs` running,
    `max_waiting` queued.

    `index` numbers this engine among `num_engines`; on CPU they share the memory. `num_devices` is the number of GPUs
    for all engines, `devices_per_engine` for each. `has_given_engines`: ENGINE_REPLICAS is set.
    `num_draft_tokens` is the longest draft of a sequence in a step. `draft_model` guesses them too: as `model`,
    empty for none. `hook_files` are files of a user's code that runs, in a process beside the engine.

    `adapters` are registered before the engine is ready. `max_adapters` are on the device at once, of rank
    `max_adapter_rank` at most; zero of them: none is ever taken. `max_cpu_adapters` are registered at once. On a GPU
    their memory is set aside at the start if the engine `reserves_adapters`, and none is taken if it does not.
    """

    model: str = ""
    revision: str | None = None
    served_model_id: str = ""
    quantize: Quantize = Quantize.AUTO
    dtype: str = "auto"
    activation_dtype: ActivationDtype = ActivationDtype.AUTO
    device: str = "auto"
    trust_remote_code: bool = False
    refuse_custom_code: bool = False
    hook_files: list[str] = []
    cache_dir: str = ""
    max_model_len: int = 0
    max_num_seqs: int = 0
    max_num_batched_tokens: int = 0
    max_waiting: int = 0
    max_waiting_tokens: int = 0
    kv_capacity_tokens: int = 0
    page_size: int = 0
    kv_layout: KVLayout = KVLayout.AUTO
    kv_cache_dtype: KVCacheDtype = KVCacheDtype.AUTO
    deterministic: bool = False
    num_draft_tokens: int = 0
    draft_model: str = ""
    adapters: tuple[AdapterSource, ...] = ()
    max_adapters: int = 8
    max_adapter_rank: int = 64
    max_cpu_adapters: int = 0
    reserves_adapters: bool = False
    num_threads: int = 0
    socket_path: str = ""
    board_path: str = ""
    card_path: str = ""
    hazards_path: str = ""
    suspects_path: str = ""
    adapters_path: str = ""
    log_level: int = 20
    log_json: bool | None = None
    index: int = 0
    num_engines: int = 1
    has_given_engines: bool = False
    num_devices: int = 0
    devices_per_engine: int = 0


def load_config(path: str) -> EngineConfig:
    """Read the file PID 1 wrote. Raises OSError or msgspec.ValidationError."""
    with open(path, "rb") as file:
        return msgspec.json.decode(file.read(), type=EngineConfig)
