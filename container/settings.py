"""Configuration: the environment, read once into a frozen `Settings`.

TGI's names come first, then SageMaker's. An empty string means unset, because the SageMaker SDK injects empty values; a
blank one holds nothing usable. An impossible value raises `SettingsError` with one sentence that names the variable and
the value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sagemaker_inference import parameters

from container.directories import default_cache_dir
from handler.seam import adapter_name
from handler.seam.config import ActivationDtype, AdapterSource, KVCacheDtype, KVLayout, Quantize

_MAX_LOG_LEVEL = 1000
# Empty: by the endpoint.
_OTLP_PROTOCOLS = ("", "grpc", "http/protobuf")
# Tokens that a draft model guesses at most, as vLLM's examples have it.
_DRAFTED = 5
_ADAPTERS = f"entries id[=path][@revision], comma-separated, each id once and of {adapter_name.RULE}"


class SettingsError(Exception):
    """A variable's value cannot be used; the message is one sentence."""


def _text(value: str) -> str:
    return value


def _flag(value: str) -> bool:
    lowered = value.lower()
    if lowered in {"1", "true", "yes", "on"}:
        return True
    if lowered in {"0", "false", "no", "off"}:
        return False
    raise ValueError("true or false")


def _count(minimum: int, maximum: int = 2**31) -> Callable[[str], int]:
    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            number = minimum - 1
        if not minimum <= number <= maximum:
            raise ValueError(f"a whole number from {minimum} to {maximum}")
        return number

    return parse


def _seconds(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 < number <= 86_400:
        raise ValueError("a number of seconds, above 0 and at most 86400")
    return number


def _number(allowed: str, fits: Callable[[float], bool]) -> Callable[[str], float]:
    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not fits(number):
            raise ValueError(allowed)
        return number

    return parse


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return value

    return parse


def _items(value: str) -> list[str]:
    return [item.strip() for item in value.split(",") if item.strip()]


def _keys(value: str) -> str:
    """Keys that a client can send: one that no header can hold would lock everybody out, none nobody."""
    keys = _items(value)
    if not keys or not all(re.fullmatch(r"[!-~](?:[ -~]*[!-~])?", key) for key in keys):
        raise ValueError("one key or several, comma-separated, of printable ASCII characters")
    return ",".join(keys)


def _origins(value: str) -> str:
    """Origins as browsers send them: in lower case, without a path."""
    origins = [item.lower().removesuffix("/") for item in _items(value)]
    if not origins or not all(re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[!-.0-~]+", origin) for origin in origins):
        raise ValueError("* or origins such as https://a.example:8443, comma-separated, without a path")
    return ",".join(origins)


def _adapters(value: str) -> tuple[AdapterSource, ...]:
    """TGI's list: `id[=path][@revision]`, comma-separated. Without a path the id is one of the hub, or a directory."""
    found: dict[str, AdapterSource] = {}
    for item in _items(value):
        matched = re.fullmatch(r"([!-<>?A-~]+)(?:=([^=@\x00-\x1f]*[^=@\s]))?(?:\s*@([^=@\x00-\x1f]*[^=@\s]))?", item)
        if matched is None or matched[1] in found or not _is_adapter_name(matched[1]):
            raise ValueError(_ADAPTERS)
        name, path, revision = matched.groups()
        found[name] = AdapterSource(name, (path or name).strip(), revision and revision.strip())
    if not found:
        raise ValueError(_ADAPTERS)
    return tuple(found.values())


def _is_adapter_name(name: str) -> bool:
    return adapter_name.fits(name) and not name.endswith(adapter_name.UPDATE)


def _header(value: str) -> str:
    if not re.fullmatch(r"[ -~]+", value):
        raise ValueError("printable ASCII characters, as it is a header's value")
    return value


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value, re.ASCII):
        raise ValueError("auto, cpu, cuda or cuda:N")
    return value


def _route(value: str) -> str:
    if not re.fullmatch(r"/[\w.~:@!$&'()*+,;=%/-]*", value, re.ASCII):
        raise ValueError("a path that begins with /, without < and >")
    return value


def _endpoint(value: str) -> str:
    """A collector: a URL, or host and port."""
    if not re.fullmatch(r"((https?|grpc)://)?[^\s/?#]*[^\s/?#:@](/[^\s?#]*)?", value):
        raise ValueError("a URL such as http://collector:4317, without a query")
    return value


def _log_level(value: str) -> int:
    """A level's name, or the number that the SageMaker SDK sends."""
    names = {"trace": 5, "debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40, "critical": 50, "off": 100}
    if value.isdecimal() and int(value) <= _MAX_LOG_LEVEL:
        return int(value)
    # TGI accepts Rust filters such as "info,text_generation_router=debug"; the first part is the level.
    found = names.get(value.lower().split(",")[0])
    if found is None:
        raise ValueError(f"a level name or a Python level number, at most {_MAX_LOG_LEVEL}")
    return found


def _setting(default: Any, parse: Callable[[str], Any], help_text: str, *names: str) -> Any:
    """A field of `Settings`: the first non-empty variable of `names`, parsed; else `default`."""
    metadata = {"names": names, "parse": parse, "help": help_text}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything an operator can configure. Zero means: derive it from the model and the machine."""

    port: int = _setting(
        8080, _count(1, 65535), "Port to listen on.", parameters.BIND_TO_PORT_ENV, "AIP_HTTP_PORT", "PORT"
    )
    health_route: str = _setting("", _route, "One more path of /health; Vertex AI sets it.", "AIP_HEALTH_ROUTE")
    predict_route: str = _setting("", _route, "One more path of /vertex; Vertex AI sets it.", "AIP_PREDICT_ROUTE")
    host: str = _setting("0.0.0.0", _text, "Address to listen on.", "BIND_ADDRESS")  # noqa: S104 - a container
    model: str = _setting(
        "", _text, "Model: directory, .gguf file or hub id. Unset: /opt/ml/model, /repository, the bundled model.",
        "HF_MODEL_ID", "MODEL_ID",
    )  # fmt: skip
    revision: str | None = _setting(None, _text, "Hub revision.", "HF_MODEL_REVISION", "REVISION")
    served_model_name: str = _setting("", _text, "Model id shown to clients.", "SERVED_MODEL_NAME")
    quantize: str = _setting("auto", _one_of(*Quantize), "How weights are stored.", "HF_MODEL_QUANTIZE", "QUANTIZE")
    dtype: str = _setting(
        "auto",
        _one_of("auto", "float32", "float16", "bfloat16"),
        "Type of weights, and of KV memory by default.",
        "DTYPE",
    )
    activation_dtype: str = _setting(
        "auto",
        _one_of(*ActivationDtype),
        "auto, or int8: round what is multiplied by 4- to 8-bit weights, as llama.cpp does (CPU).",
        "ACTIVATION_DTYPE",
    )
    device: str = _setting("auto", _device, "auto, cpu, cuda or cuda:N.", "DEVICE")
    num_gpus: int = _setting(0, _count(0, 64), "GPUs to use. Default: all visible GPUs.", "NUM_SHARD", "SM_NUM_GPUS")
    engine_replicas: int = _setting(
        0,
        _count(0, 64),
        "Engines, each with a full copy of the model. Default: as many as fit the GPUs; one on CPU.",
        "ENGINE_REPLICAS",
    )
    trust_remote_code: bool = _setting(
        False,
        _flag,
        "Run code from the directory of a model whose family transformers does not know.",
        "HF_MODEL_TRUST_REMOTE_CODE",
        "TRUST_REMOTE_CODE",
    )
    trust_request_chat_template: bool = _setting(
        False,
        _flag,
        "Run the `chat_template` that a chat sends, in the sandbox of the model's own.",
        "TRUST_REQUEST_CHAT_TEMPLATE",
    )
    refuse_custom_code: bool = _setting(
        False,
        _flag,
        "Refuse to start beside code that is not run: inference.py, handler.py, model.py, requirements.txt, code/.",
        "REFUSE_CUSTOM_CODE",
    )
    trust_custom_code: bool = _setting(
        False,
        _flag,
        "Run the model directory's own code: inference.py, handler.py, model.py, code/.",
        "TRUST_CUSTOM_CODE",
    )
    hook_threads: int = _setting(
        64,
        _count(1, 1024),
        "Calls of a sync hook that run at the same time.",
        "HOOK_THREADS",
    )
    hook_max_memory_mb: int = _setting(
        0,
        _count(256),
        "Most memory of the hook process, in MB of data. Default: no limit.",
        "HOOK_MAX_MEMORY_MB",
    )
    install_requirements: bool = _setting(
        True, _flag, "Install the requirements.txt of the user's code before it is loaded.", "STANDARD_AUTO_INSTALL_REQ"
    )
    pip_args: str = _setting(
        "", _text, "Arguments of `pip install` that take the place of requirements.txt.", "STANDARD_PIP_ARGS"
    )
    max_input_tokens: int = _setting(
        0, _count(1), "Longest prompt, in tokens. Default: MAX_TOTAL_TOKENS - 1.",
        "MAX_INPUT_TOKENS", "MAX_INPUT_LENGTH",
    )  # fmt: skip
    max_total_tokens: int = _setting(
        0,
        _count(2),
        "Longest prompt and completion, in tokens. Default: the model's context.",
        "MAX_TOTAL_TOKENS",
    )
    max_batch_prefill_tokens: int = _setting(
        0, _count(1), "Most tokens in one step. Default: 256 on CPU, 4096 on CUDA.", "MAX_BATCH_PREFILL_TOKENS"
    )
    max_batch_total_tokens: int = _setting(
        0, _count(1), "KV memory in tokens. Default: from free memory.", "MAX_BATCH_TOTAL_TOKENS"
    )
    kv_layout: str = _setting(
        "auto", _one_of(*KVLayout), "KV memory: auto, slots or paged. Auto: paged on CUDA.", "KV_LAYOUT"
    )
    kv_cache_dtype: str = _setting(
        "auto",
        _one_of(*KVCacheDtype),
        "Type of keys and values in KV memory: auto (that of the weights), int8, or on CUDA fp8.",
        "KV_CACHE_DTYPE",
    )
    deterministic: bool = _setting(
        False,
        _flag,
        "Make results independent of the batch, also for weights whose kernel depends on the number of rows (CPU).",
        "DETERMINISTIC",
    )
    speculate: int | None = _setting(
        None,
        _count(0, 64),
        "Most tokens that are guessed and verified in one step, for each sequence; answers stay the same. 0: none. "
        "Default: 0, or 5 with SPECULATIVE_MODEL.",
        "SPECULATE",
    )
    speculative_model: str = _setting(
        "",
        _text,
        "Small model of the same vocabulary that guesses too: a directory, a hub id or a .gguf file.",
        "SPECULATIVE_MODEL",
    )
    adapters: tuple[AdapterSource, ...] = _setting(
        (), _adapters, "Adapters to load at the start, comma-separated: id[=path][@revision].", "LORA_ADAPTERS"
    )
    max_adapters: int = _setting(
        8,
        _count(0, 1024),
        "Adapters on the device at once, so in one batch; 0: none is ever loaded.",
        *("MAX_ADAPTERS", "OPTION_MAX_LORAS", "SM_VLLM_MAX_LORAS"),
    )
    max_adapter_rank: int = _setting(
        64,
        _count(1, 4096),
        "Largest rank of an adapter.",
        *("MAX_ADAPTER_RANK", "OPTION_MAX_LORA_RANK", "SM_VLLM_MAX_LORA_RANK"),
    )
    max_cpu_adapters: int = _setting(
        0,
        _count(1, 1_000_000),
        "Adapters registered at once. Default: as many as host memory holds.",
        *("MAX_CPU_ADAPTERS", "OPTION_MAX_CPU_LORAS", "SM_VLLM_MAX_CPU_LORAS"),
    )
    enable_adapters: bool = _setting(
        False,
        _flag,
        "Set memory for adapters aside on a GPU at the start. LORA_ADAPTERS does so too.",
        *("ENABLE_ADAPTERS", "OPTION_ENABLE_LORA", "SM_VLLM_ENABLE_LORA"),
    )
    adapter_updates: bool = _setting(
        False,
        _flag,
        "Serve vLLM's routes /v1/load_lora_adapter and /v1/unload_lora_adapter.",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    )
    max_batch_size: int = _setting(
        0,
        _count(1, 4096),
        "Sequences that run at the same time. Default: 64 on CPU; on CUDA as many as KV memory holds at 512 tokens "
        "each, 8 to 256.",
        "MAX_BATCH_SIZE",
    )
    max_concurrent_requests: int = _setting(
        0,
        _count(1, 1_000_000),
        "Requests in flight before 429, for each engine. Default: 128, or twice MAX_BATCH_SIZE if that is more.",
        "MAX_CONCURRENT_REQUESTS",
    )
    max_queued_tokens: int = _setting(
        0,
        _count(1),
        "Prompt tokens in the queue before 429. Default: 4 times KV memory.",
        "MAX_QUEUED_TOKENS",
    )
    max_best_of: int = _setting(2, _count(1, 64), "Largest best_of and n.", "MAX_BEST_OF")
    max_choices: int = _setting(8, _count(1, 128), "Largest n and best_of on /v1.", "MAX_CHOICES")
    max_stop_sequences: int = _setting(4, _count(0, 64), "Most stop strings in one request.", "MAX_STOP_SEQUENCES")
    max_top_n_tokens: int = _setting(5, _count(0, 20), "Largest top_n_tokens.", "MAX_TOP_N_TOKENS")
    max_client_batch_size: int = _setting(
        128, _count(1, 1024), "Most prompts in one /v1/completions request.", "MAX_CLIENT_BATCH_SIZE"
    )
    disable_grammar_support: bool = _setting(
        False, _flag, "Refuse grammars on TGI's routes.", "DISABLE_GRAMMAR_SUPPORT"
    )
    unknown_fields: str = _setting(
        "refuse",
        _one_of("refuse", "ignore"),
        "On /v1, fields that no known server has: refuse, or ignore with a log line. Near misses are always refused.",
        "UNKNOWN_FIELDS",
    )
    watermark_gamma: float = _setting(
        0.5,
        _number("a number from 0 to 1", lambda n: 0 <= n <= 1),
        "Share of the vocabulary that `watermark` favours.",
        "WATERMARK_GAMMA",
    )
    watermark_delta: float = _setting(
        2.0,
        _number("a number from 0 to 100", lambda n: 0 <= n <= 100),
        "Added by `watermark` to the logits of that share.",
        "WATERMARK_DELTA",
    )
    payload_limit: int = _setting(2_000_000, _count(1), "Largest request body, in bytes.", "PAYLOAD_LIMIT")
    invocations_payload_limit: int = _setting(
        26_214_400, _count(1), "Largest request body on /invocations, in bytes.", "INVOCATIONS_PAYLOAD_LIMIT"
    )
    request_timeout_s: float = _setting(
        55.0,
        _seconds,
        "Time for a whole answer, in seconds; then it ends with `length`. SageMaker cuts at 60.",
        "REQUEST_TIMEOUT_S",
    )
    stream_timeout_s: float = _setting(3600.0, _seconds, "Time limit of a stream, in seconds.", "STREAM_TIMEOUT_S")
    sessions_expiration_s: float = _setting(
        1200.0, _seconds, "Lifetime of a SageMaker session, in seconds.", "SAGEMAKER_SESSIONS_EXPIRATION"
    )
    standard_sessions: bool | None = _setting(
        None,
        _flag,
        "True: sessions answer as AWS's hosting standards do; false: they are refused.",
        "SAGEMAKER_ENABLE_STATEFUL_SESSIONS",
    )
    api_key: str | None = _setting(
        None,
        _keys,
        "Key that clients must send, as Bearer token or x-api-key; several, comma-separated, are all accepted.",
        "API_KEY",
    )
    cors_allow_origin: str = _setting(
        "*", _origins, "Origins that may call from a browser, comma-separated.", "CORS_ALLOW_ORIGIN"
    )
    playground: bool = _setting(True, _flag, "Serve the page /playground, a chat in the browser.", "PLAYGROUND")
    web_workers: int = _setting(
        2, _count(1, 64), "Web worker processes.", "WEB_WORKERS", parameters.MODEL_SERVER_WORKERS_ENV
    )
    engine_threads: int = _setting(
        0,
        _count(1, 1024),
        "Threads of an engine on CPU. Default: all cores that affinity and quotas allow, shared among the engines.",
        "ENGINE_THREADS",
    )
    engine_stall_timeout_s: float = _setting(
        8.0,
        _seconds,
        "Seconds without progress after which an engine counts as hung, at least ten times its step time.",
        "ENGINE_STALL_TIMEOUT_S",
    )
    otlp_endpoint: str = _setting(
        "",
        _endpoint,
        "OpenTelemetry collector that gets a span for each request. Unset: no traces.",
        "OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    )
    otlp_protocol: str = _setting(
        "",
        _text,
        "grpc or http/protobuf. Default: grpc to OTLP_ENDPOINT, to grpc:// and to port 4317, else http/protobuf.",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    )
    otlp_service_name: str = _setting(
        "", _text, "Name of this service in traces.", "OTLP_SERVICE_NAME", "OTEL_SERVICE_NAME"
    )
    otel_sdk_disabled: bool = _setting(False, _flag, "Send no traces, whatever else is set.", "OTEL_SDK_DISABLED")
    otel_traces_exporter: str = _setting(
        "otlp", _text, "Where spans go: otlp; anything else, such as none, means nowhere.", "OTEL_TRACES_EXPORTER"
    )
    otel_propagators: str = _setting(
        "tracecontext,baggage",
        _text,
        "Whether a caller's traceparent is the parent: it is if tracecontext is among them.",
        "OTEL_PROPAGATORS",
    )
    cache_dir: str = _setting(default_cache_dir, _text, "The only directory that is written to.", "CACHE_DIR")
    compute_type: str = _setting("", _header, "Value of the x-compute-type header.", "COMPUTE_TYPE")
    log_level: int = _setting(20, _log_level, "Log level.", "LOG_LEVEL", parameters.LOG_LEVEL_ENV)
    json_output: bool | None = _setting(
        None, _flag, "Log as JSON. Default: yes, unless stderr is a terminal.", "JSON_OUTPUT"
    )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read `environ`. Raises SettingsError naming the variable, what is allowed and the value given."""
        values: dict[str, Any] = {}
        for item in fields(cls):
            for name in item.metadata["names"]:
                given = environ.get(name, "")
                if not given:
                    continue
                raw = given.strip()
                if not raw:
                    raise SettingsError(f"{name} is blank: give it a value or unset it")
                if raw[0] == raw[-1] and raw[0] in "\"'":
                    raise SettingsError(f"{name} is in quotes: leave them out, they would be part of the value")
                try:
                    values[item.name] = item.metadata["parse"](raw)
                except ValueError as exc:
                    shown = "(hidden)" if item.name == "api_key" else repr(raw)
                    raise SettingsError(f"{name} must be {exc}. Given: {shown}") from exc
                break
        settings = cls(**values)
        settings._check()
        return settings

    @property
    def traced(self) -> bool:
        """Whether spans are sent."""
        return bool(self.otlp_endpoint) and not self.otel_sdk_disabled and "otlp" in _items(self.otel_traces_exporter)

    @property
    def reads_traceparent(self) -> bool:
        """Whether a caller's `traceparent` is the parent of a span."""
        return "tracecontext" in _items(self.otel_propagators)

    @property
    def num_draft_tokens(self) -> int:
        """The longest draft, in tokens; 0 without speculation."""
        if self.speculate is None:
            return _DRAFTED if self.speculative_model else 0
        return self.speculate

    @property
    def reserves_adapters(self) -> bool:
        """Whether a GPU's memory for adapters is set aside at the start."""
        return self.enable_adapters or self.adapter_updates or bool(self.adapters)

    @property
    def awaits_adapters(self) -> bool:
        """Whether adapters are asked for, now or later, so that a request may mean one before any is loaded."""
        return self.reserves_adapters and self.max_adapters > 0

    @property
    def max_registered_adapters(self) -> float:
        """The most adapters that these settings allow at once; memory may allow fewer."""
        if not self.max_adapters:
            return 0
        return max(self.max_cpu_adapters, self.max_adapters) if self.max_cpu_adapters else math.inf

    def _check(self) -> None:
        if self.max_input_tokens and self.max_total_tokens and self.max_input_tokens >= self.max_total_tokens:
            raise SettingsError(
                f"MAX_INPUT_TOKENS must be less than MAX_TOTAL_TOKENS ({self.max_total_tokens}). "
                f"Given: {self.max_input_tokens}"
            )
        if len(self.adapters) > self.max_registered_adapters:
            raise SettingsError(
                f"LORA_ADAPTERS must have at most as many entries as MAX_ADAPTERS and MAX_CPU_ADAPTERS allow "
                f"({self.max_registered_adapters:.0f}). Given: {len(self.adapters)}"
            )
        taken = {*adapter_name.MODEL_ALIASES, self.served_model_name or self.model} & {
            each.name for each in self.adapters
        }
        if taken:
            raise SettingsError(f"LORA_ADAPTERS must not have a name of the model itself. Given: {taken.pop()!r}")
        if self.traced and self.otlp_protocol not in _OTLP_PROTOCOLS:
            raise SettingsError(
                f"OTEL_EXPORTER_OTLP_PROTOCOL must be grpc or http/protobuf. Given: {self.otlp_protocol!r}"
            )
