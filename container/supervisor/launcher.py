"""TGI's launcher arguments, and those of its variables that `Settings` does not have.

A variable that would change answers and cannot be honoured stops the start with one sentence. One that only tunes
speed or logging is ignored with one line in the log. One that makes no difference here is ignored silently. Source:
launcher/src/main.rs of text-generation-inference v3.3.7.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from container.settings import SettingsError

# Arguments that take no value.
_SWITCHES = {
    "trust-remote-code",
    "disable-custom-kernels",
    "json-output",
    "ngrok",
    "disable-grammar-support",
    "enable-prefill-logprobs",
}
_VALUES = (
    "model-id revision validation-workers sharded num-shard quantize speculate dtype kv-cache-dtype "
    "max-concurrent-requests max-best-of max-stop-sequences max-top-n-tokens max-input-tokens max-input-length "
    "max-total-tokens waiting-served-ratio max-batch-prefill-tokens max-batch-total-tokens max-waiting-tokens "
    "max-batch-size cuda-graphs hostname port prometheus-port shard-uds-path master-addr master-port "
    "huggingface-hub-cache weights-cache-override cuda-memory-fraction rope-scaling rope-factor otlp-endpoint "
    "otlp-service-name cors-allow-origin api-key watermark-gamma watermark-delta ngrok-authtoken ngrok-edge "
    "tokenizer-config-path max-client-batch-size lora-adapters usage-stats payload-limit graceful-termination-timeout"
)
_ARGUMENTS = frozenset(_VALUES.split())
_SHORT = {"-p": "--port"}
# The name that `Settings` reads first: an argument overrides every variable, as in TGI.
_FIRST_NAMES = {
    "MODEL_ID": "HF_MODEL_ID",
    "REVISION": "HF_MODEL_REVISION",
    "QUANTIZE": "HF_MODEL_QUANTIZE",
    "TRUST_REMOTE_CODE": "HF_MODEL_TRUST_REMOTE_CODE",
}

_REFUSED = {
    "ROPE_SCALING": "set rope_scaling in the model's config.json instead",
    "ROPE_FACTOR": "set rope_scaling in the model's config.json instead",
    "TOKENIZER_CONFIG_PATH": "put the file into the model's directory as tokenizer_config.json instead",
}
_IGNORED = {
    "VALIDATION_WORKERS": "WEB_WORKERS sets the number of web workers",
    "SHARDED": "all visible GPUs are used; NUM_SHARD limits them",
    "WAITING_SERVED_RATIO": "prefill runs beside decode",
    "MAX_WAITING_TOKENS": "prefill runs beside decode",
    "CUDA_GRAPHS": "graphs are captured for the batches that occur",
    "PROMETHEUS_PORT": "/metrics is on the main port",
    "SHARD_UDS_PATH": "sockets are in a private directory",
    "MASTER_ADDR": "engines do not talk to each other",
    "MASTER_PORT": "engines do not talk to each other",
    "WEIGHTS_CACHE_OVERRIDE": "CACHE_DIR and HF_HOME set where files are kept",
    "DISABLE_CUSTOM_KERNELS": "kernels are chosen at start and undone if they differ from the model",
    "CUDA_MEMORY_FRACTION": "MAX_BATCH_TOTAL_TOKENS limits KV memory",
    "OTEL_METRICS_EXPORTER": "/metrics has them",
    "OTEL_LOGS_EXPORTER": "the log goes to stderr",
    "NGROK": "no tunnel is opened",
    "NGROK_AUTHTOKEN": "no tunnel is opened",
    "NGROK_EDGE": "no tunnel is opened",
    "GRACEFUL_TERMINATION_TIMEOUT": "draining takes at most 24 s, because SageMaker kills after 30",
    "MAX_IMAGE_FETCH_SIZE": "no images are fetched",
    "ATTENTION": "the start-up trial chooses",
    "PREFIX_CACHING": "prefixes are reused wherever answers stay the same",
    "PREFILL_CHUNKING": "prefill is always chunked",
    "USE_FLASH_ATTENTION": "the start-up trial chooses",
    "SAGEMAKER_PROGRAM": "no handler code is run",
    "CUSTOM_SCRIPT_FILENAME": "no handler code is run",
}
# Nothing is called from here, so baggage has nowhere to go.
_PROPAGATORS = {"tracecontext", "baggage", "none", ""}
_SHARDS = ("NUM_SHARD", "SM_NUM_GPUS")
# The hub client reads the first two; TGI's older images and the toolkit of Hugging Face also had the last.
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN")
# What says where the hub's files are kept.
_HUB_CACHES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
# TGI's image keeps the hub's files here, so users mount a volume here.
_TGI_VOLUME = Path("/data")
# Ignored silently: USAGE_STATS (nothing is ever sent), ENABLE_PREFILL_LOGPROBS (always on),
# HUGGINGFACE_HUB_CACHE (read by huggingface_hub), HF_TASK and MESSAGES_API_ENABLED (TGI ignores them too).


def arguments() -> list[str]:
    """Every argument, those with a value as `--port VALUE`, in alphabetical order."""
    return sorted([f"--{name}" for name in _SWITCHES] + [f"--{name} VALUE" for name in _ARGUMENTS])


def takes_value(argument: str) -> bool:
    """True if the next argument is the value of this one."""
    flag = _SHORT.get(argument, argument)
    return flag.startswith("--") and flag.removeprefix("--") in _ARGUMENTS


def read_arguments(arguments: Sequence[str]) -> dict[str, str]:
    """Translate TGI's launcher arguments to environment variables. A leading `serve`, from SageMaker, is dropped.

    A value may begin with a dash, and a switch may have a value after `=`; argparse allows neither. Raises
    SettingsError for any other argument.
    """
    values: dict[str, str] = {}
    rest = list(arguments[1:] if arguments[:1] == ["serve"] else arguments)
    while rest:
        given = rest.pop(0)
        flag, has_value, value = _SHORT.get(given, given).partition("=")
        name = flag.removeprefix("--")
        if not flag.startswith("--") or name not in _ARGUMENTS | _SWITCHES:
            raise SettingsError(f"the arguments are `serve` and those of text-generation-launcher. Given: {given}")
        if not has_value:
            takes_value = name in _ARGUMENTS
            if takes_value and not rest:
                raise SettingsError(f"{flag} takes a value")
            value = rest.pop(0) if takes_value else "true"
        # An empty variable is unset; an argument that was given is not.
        if not value.strip():
            raise SettingsError(f"{flag} takes a value. Given: {value!r}")
        variable = name.replace("-", "_").upper()
        values[_FIRST_NAMES.get(variable, variable)] = value
    return values


def translate(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ`, with our names beside TGI's: BIND_ADDRESS, NUM_SHARD, HF_TOKEN and HF_HUB_CACHE.

    BIND_ADDRESS comes from HOSTNAME if that is an address. Docker sets HOSTNAME to the container's name; TGI then
    listens on all addresses, and so do we. A writable /data is the hub's cache, as in TGI, unless a variable names one.
    """
    found = dict(environ)
    token = next((found[name].strip() for name in _TOKENS if found.get(name, "").strip()), "")
    if token:
        found["HF_TOKEN"] = token
    if not any(found.get(name, "").strip() for name in _HUB_CACHES) and os.access(_TGI_VOLUME, os.W_OK | os.X_OK):
        found["HF_HUB_CACHE"] = str(_TGI_VOLUME)
    if not found.get("BIND_ADDRESS", "").strip() and _is_address(found.get("HOSTNAME", "").strip()):
        found["BIND_ADDRESS"] = found["HOSTNAME"].strip()
    if found.get("SHARDED", "").strip().lower() == "false" and not any(found.get(name, "").strip() for name in _SHARDS):
        found["NUM_SHARD"] = "1"
    return found


def check(environ: Mapping[str, str]) -> list[str]:
    """One line for each TGI variable that is set but ignored, and for an empty API_KEY.

    Raises SettingsError for a refused one.
    """
    given = {name: value.strip() for name, value in environ.items() if value.strip()}
    for name, advice in _REFUSED.items():
        if name in given:
            raise SettingsError(f"{name} cannot be honoured: {advice}. Given: {given[name]!r}")
    tokens, length = given.get("MAX_INPUT_TOKENS"), given.get("MAX_INPUT_LENGTH")
    if tokens and length and tokens != length:
        raise SettingsError(f"MAX_INPUT_TOKENS ({tokens}) and MAX_INPUT_LENGTH ({length}) are one limit; set one")
    lines = [f"{name} is ignored: {reason}" for name, reason in _IGNORED.items() if name in given]
    foreign = [
        each.strip() for each in given.get("OTEL_PROPAGATORS", "").split(",") if each.strip() not in _PROPAGATORS
    ]
    if foreign:
        lines.append(f"{', '.join(foreign)} in OTEL_PROPAGATORS is ignored: tracecontext is what is read")
    if environ.get("API_KEY") == "":
        lines.append("API_KEY is empty, which means unset: requests need no key")
    return lines


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
