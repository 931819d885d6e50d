"""The container's variables as far as a deployment can check them: names, possible values, what it refuses or ignores.

The container ends with status 2 at a value that it cannot use, which SageMaker shows minutes later as a failed health
check. tests/deploy/test_container_settings.py compares every row with the container's own settings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

_MAX_LOG_LEVEL = 1000
# What a value must be, "" if it is.
Check = Callable[[str], str]


def _number(minimum: float, maximum: float, read: Callable[[str], float] = float, noun: str = "a number") -> Check:
    def check(value: str) -> str:
        try:
            fits = minimum <= read(value) <= maximum
        except ValueError:
            fits = False
        return "" if fits else f"{noun} from {minimum} to {maximum}"

    return check


def _whole(minimum: int, maximum: int = 2**31) -> Check:
    return _number(minimum, maximum, int, "a whole number")


def _one_of(*allowed: str) -> Check:
    return lambda value: "" if value in allowed else f"one of {', '.join(allowed)}"


def _match(pattern: str, words: str) -> Check:
    compiled = re.compile(pattern, re.ASCII | re.IGNORECASE)
    return lambda value: "" if compiled.fullmatch(value) else words


def _text(value: str) -> str:
    return ""


def _seconds(value: str) -> str:
    try:
        fits = 0 < float(value) <= 86_400
    except ValueError:
        fits = False
    return "" if fits else "a number of seconds, above 0 and at most 86400"


def _list(item: str, words: str) -> Check:
    """At least one item between commas, each of the pattern `item`."""
    compiled = re.compile(item)

    def check(value: str) -> str:
        items = [part.strip() for part in value.split(",") if part.strip()]
        return "" if items and all(map(compiled.fullmatch, items)) else words

    return check


def _adapters(value: str) -> str:
    """As the container reads LORA_ADAPTERS."""
    items = [part.strip() for part in value.split(",") if part.strip()]
    entry = r"([!-:<>?A-~]+)(=[^=@\x00-\x1f]*[^=@\s])?(\s*@[^=@\x00-\x1f]*[^=@\s])?"
    names = [found[1] for found in (re.fullmatch(entry, item) for item in items) if found]
    fits = len(set(names)) == len(items) and all(map(_is_adapter_name, names))
    words = (
        "entries id[=path][@revision], comma-separated, each id once, of 1 to 256 printable ASCII characters, without "
        'parts between slashes that are empty, "." or ".."'
    )
    return "" if items and fits else words


def _is_adapter_name(name: str) -> bool:
    return len(name) <= 256 and not name.endswith("/update") and not {"", ".", ".."} & set(name.split("/"))


def _log_level(value: str) -> str:
    names = ("trace", "debug", "info", "warn", "warning", "error", "critical", "off")
    number = value.isdecimal() and int(value) <= _MAX_LOG_LEVEL
    fits = number or value.lower().split(",")[0] in names
    return "" if fits else f"a level name or a Python level number, at most {_MAX_LOG_LEVEL}"


TRUE = ("1", "true", "yes", "on")
_FLAG = _match("1|true|yes|on|0|false|no|off", "true or false")
_ENDPOINT = r"((https?|grpc)://)?[^\s/?#]*[^\s/?#:@](/[^\s?#]*)?"
_ROUTE = _match(r"/[\w.~:@!$&'()*+,;=%/-]*", "a path that begins with /, without < and >")
QUANTIZE_NAMES = ("HF_MODEL_QUANTIZE", "QUANTIZE")
MODEL_NAMES = ("HF_MODEL_ID", "MODEL_ID")
GPU_NAMES = ("NUM_SHARD", "SM_NUM_GPUS")
PORT_NAMES = ("SAGEMAKER_BIND_TO_PORT", "AIP_HTTP_PORT", "PORT")
COLLECTOR_NAMES = ("OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOL_NAMES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOLS = ("", "grpc", "http/protobuf")
KV_CACHE_DTYPES = (
    *("auto", "float32", "float16", "bfloat16", "int8"),
    *("fp8", "fp8_e4m3", "fp8_e4m3fn", "fp8_e5m2"),
)
_QUANTIZE = (
    *("none", "bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4", "auto", "int8", "int4", "eetq"),
    *("gptq", "awq", "marlin", "compressed-tensors", "fp8", "exl2"),
)
# Of several names the container reads the first that is not empty.
SETTINGS: tuple[tuple[tuple[str, ...], Check], ...] = (
    (PORT_NAMES, _whole(1, 65535)),
    (("AIP_HEALTH_ROUTE",), _ROUTE),
    (("AIP_PREDICT_ROUTE",), _ROUTE),
    (("BIND_ADDRESS",), _text),
    (MODEL_NAMES, _text),
    (("HF_MODEL_REVISION", "REVISION"), _text),
    (("SERVED_MODEL_NAME",), _text),
    (QUANTIZE_NAMES, _one_of(*_QUANTIZE)),
    (("DTYPE",), _one_of("auto", "float32", "float16", "bfloat16")),
    (("ACTIVATION_DTYPE",), _one_of("auto", "int8")),
    (("DEVICE",), lambda value: "" if re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", value) else "auto, cpu, cuda or cuda:N"),
    (GPU_NAMES, _whole(0, 64)),
    (("ENGINE_REPLICAS",), _whole(0, 64)),
    (("HF_MODEL_TRUST_REMOTE_CODE", "TRUST_REMOTE_CODE"), _FLAG),
    (("TRUST_REQUEST_CHAT_TEMPLATE",), _FLAG),
    (("REFUSE_CUSTOM_CODE",), _FLAG),
    (("TRUST_CUSTOM_CODE",), _FLAG),
    (("HOOK_THREADS",), _whole(1, 1024)),
    (("HOOK_MAX_MEMORY_MB",), _whole(256)),
    (("STANDARD_AUTO_INSTALL_REQ",), _FLAG),
    (("STANDARD_PIP_ARGS",), _text),
    (("MAX_INPUT_TOKENS", "MAX_INPUT_LENGTH"), _whole(1)),
    (("MAX_TOTAL_TOKENS",), _whole(2)),
    (("MAX_BATCH_PREFILL_TOKENS",), _whole(1)),
    (("MAX_BATCH_TOTAL_TOKENS",), _whole(1)),
    (("KV_LAYOUT",), _one_of("auto", "slots", "paged")),
    (("KV_CACHE_DTYPE",), _one_of(*KV_CACHE_DTYPES)),
    (("DETERMINISTIC",), _FLAG),
    (("SPECULATE",), _whole(0, 64)),
    (("SPECULATIVE_MODEL",), _text),
    (("LORA_ADAPTERS",), _adapters),
    (("MAX_ADAPTERS", "OPTION_MAX_LORAS", "SM_VLLM_MAX_LORAS"), _whole(0, 1024)),
    (("MAX_ADAPTER_RANK", "OPTION_MAX_LORA_RANK", "SM_VLLM_MAX_LORA_RANK"), _whole(1, 4096)),
    (("MAX_CPU_ADAPTERS", "OPTION_MAX_CPU_LORAS", "SM_VLLM_MAX_CPU_LORAS"), _whole(1, 1_000_000)),
    (("ENABLE_ADAPTERS", "OPTION_ENABLE_LORA", "SM_VLLM_ENABLE_LORA"), _FLAG),
    (("VLLM_ALLOW_RUNTIME_LORA_UPDATING",), _FLAG),
    (("MAX_BATCH_SIZE",), _whole(1, 4096)),
    (("MAX_CONCURRENT_REQUESTS",), _whole(1, 1_000_000)),
    (("MAX_QUEUED_TOKENS",), _whole(1)),
    (("MAX_BEST_OF",), _whole(1, 64)),
    (("MAX_CHOICES",), _whole(1, 128)),
    (("MAX_STOP_SEQUENCES",), _whole(0, 64)),
    (("MAX_TOP_N_TOKENS",), _whole(0, 20)),
    (("MAX_CLIENT_BATCH_SIZE",), _whole(1, 1024)),
    (("DISABLE_GRAMMAR_SUPPORT",), _FLAG),
    (("UNKNOWN_FIELDS",), _one_of("refuse", "ignore")),
    (("WATERMARK_GAMMA",), _number(0, 1)),
    (("WATERMARK_DELTA",), _number(0, 100)),
    (("PAYLOAD_LIMIT",), _whole(1)),
    (("INVOCATIONS_PAYLOAD_LIMIT",), _whole(1)),
    (("REQUEST_TIMEOUT_S",), _seconds),
    (("STREAM_TIMEOUT_S",), _seconds),
    (("SAGEMAKER_SESSIONS_EXPIRATION",), _seconds),
    (("SAGEMAKER_ENABLE_STATEFUL_SESSIONS",), _FLAG),
    (("API_KEY",), _list(r"[!-~](?:[ -~]*[!-~])?", "one key or several, comma-separated, of printable ASCII")),
    (
        ("CORS_ALLOW_ORIGIN",),
        _list(r"\*|(?i:null|[a-z][a-z0-9+.-]*://[!-.0-~]+/?)", "* or origins such as https://a.example:8443"),
    ),
    (("PLAYGROUND",), _FLAG),
    (("WEB_WORKERS", "SAGEMAKER_MODEL_SERVER_WORKERS"), _whole(1, 64)),
    (("ENGINE_THREADS",), _whole(1, 1024)),
    (("ENGINE_STALL_TIMEOUT_S",), _seconds),
    (
        COLLECTOR_NAMES,
        lambda value: "" if re.fullmatch(_ENDPOINT, value) else "a URL such as http://collector:4317, without a query",
    ),
    (PROTOCOL_NAMES, _text),
    (("OTLP_SERVICE_NAME", "OTEL_SERVICE_NAME"), _text),
    (("OTEL_SDK_DISABLED",), _FLAG),
    (("OTEL_TRACES_EXPORTER",), _text),
    (("OTEL_PROPAGATORS",), _text),
    (("CACHE_DIR",), _text),
    (("COMPUTE_TYPE",), _match("[ -~]+", "printable ASCII characters, as it is a header's value")),
    (("LOG_LEVEL", "SAGEMAKER_CONTAINER_LOG_LEVEL"), _log_level),
    (("JSON_OUTPUT",), _FLAG),
)
# The hub's token has several names too, outside the container's settings.
TOKEN_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN")
_GROUPS = {name: names for names in (*(names for names, _ in SETTINGS), TOKEN_NAMES) for name in names}
KNOWN = frozenset(_GROUPS)
REFUSED = ("ROPE_SCALING", "ROPE_FACTOR", "TOKENIZER_CONFIG_PATH")
IGNORED = (
    *("VALIDATION_WORKERS", "SHARDED", "WAITING_SERVED_RATIO", "MAX_WAITING_TOKENS"),
    *("CUDA_GRAPHS", "PROMETHEUS_PORT", "SHARD_UDS_PATH", "MASTER_ADDR", "MASTER_PORT", "WEIGHTS_CACHE_OVERRIDE"),
    *("DISABLE_CUSTOM_KERNELS", "CUDA_MEMORY_FRACTION", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER", "NGROK"),
    *("NGROK_AUTHTOKEN", "NGROK_EDGE", "GRACEFUL_TERMINATION_TIMEOUT", "MAX_IMAGE_FETCH_SIZE", "ATTENTION"),
    *("PREFIX_CACHING", "PREFILL_CHUNKING", "USE_FLASH_ATTENTION"),
)


def same_setting(name: str) -> tuple[str, ...]:
    """Return all names of the setting that `name` is one of, the first-read first."""
    return _GROUPS.get(name, (name,))


def effective(environment: Mapping[str, str], names: tuple[str, ...]) -> str:
    """Return the value that the container reads for a setting, "" if it is unset."""
    return next((environment[name].strip() for name in names if environment.get(name, "").strip()), "")


def problems(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each entry that ends the container at its start, or that it never reads."""
    for names, check in SETTINGS:
        yield from _problems_of(environment, names, check)
    yield from _problems_of(environment, TOKEN_NAMES, _text)
    for name in REFUSED:
        if environment.get(name, "").strip():
            yield f"the container refuses {name} (docs/migrate-from-tgi.md)"
    limits = effective(environment, same_setting("MAX_INPUT_TOKENS")), effective(environment, ("MAX_TOTAL_TOKENS",))
    if all(re.fullmatch(r"\d+", limit) for limit in limits) and int(limits[0]) >= int(limits[1]):
        yield f"MAX_INPUT_TOKENS {limits[0]} must be below MAX_TOTAL_TOKENS {limits[1]}"
    model = effective(environment, ("SERVED_MODEL_NAME",)) or effective(environment, MODEL_NAMES)
    adapters = effective(environment, ("LORA_ADAPTERS",)).split(",")
    if {"tgi", "dummy", model} & {re.split("[=@]", item.strip())[0] for item in adapters if item.strip()}:
        yield "LORA_ADAPTERS must not have a name of the model itself"
    protocol = effective(environment, PROTOCOL_NAMES)
    if _is_traced(environment) and protocol not in _PROTOCOLS:
        yield f"OTEL_EXPORTER_OTLP_PROTOCOL must be grpc or http/protobuf, got {protocol!r}"


def _is_traced(environment: Mapping[str, str]) -> bool:
    """As the container's `Settings.traced`."""
    is_off = effective(environment, ("OTEL_SDK_DISABLED",)).lower() in TRUE
    exporters = effective(environment, ("OTEL_TRACES_EXPORTER",)) or "otlp"
    sends = "otlp" in (item.strip() for item in exporters.split(","))
    return bool(effective(environment, COLLECTOR_NAMES)) and not is_off and sends


def _problems_of(environment: Mapping[str, str], names: tuple[str, ...], check: Check) -> Iterator[str]:
    given = [name for name in names if environment.get(name)]
    if not given:
        return
    first, value = given[0], environment[given[0]].strip()
    shown = "" if first in (*TOKEN_NAMES, "API_KEY") else f", got {value!r}"
    wanted = check(value) if value else "more than blanks"
    if wanted:
        yield f"environment variable {first} must be {wanted}{shown}"
    for other in given[1:]:
        if environment[other].strip() != value:
            yield f"environment variable {other} does nothing beside {first}; give one of them"
