"""TGI's launcher: its arguments become variables; its variables are read, ignored with a line or refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from container.settings import Settings, SettingsError
from container.supervisor import launcher

# The arguments of TGI's launcher/src/main.rs (v3.3.7), in its order.
OPTIONS = (
    "MODEL_ID REVISION VALIDATION_WORKERS SHARDED NUM_SHARD QUANTIZE SPECULATE DTYPE KV_CACHE_DTYPE TRUST_REMOTE_CODE "
    "MAX_CONCURRENT_REQUESTS MAX_BEST_OF MAX_STOP_SEQUENCES MAX_TOP_N_TOKENS MAX_INPUT_TOKENS MAX_INPUT_LENGTH "
    "MAX_TOTAL_TOKENS WAITING_SERVED_RATIO MAX_BATCH_PREFILL_TOKENS MAX_BATCH_TOTAL_TOKENS MAX_WAITING_TOKENS "
    "MAX_BATCH_SIZE CUDA_GRAPHS HOSTNAME PORT PROMETHEUS_PORT SHARD_UDS_PATH MASTER_ADDR MASTER_PORT "
    "HUGGINGFACE_HUB_CACHE WEIGHTS_CACHE_OVERRIDE DISABLE_CUSTOM_KERNELS CUDA_MEMORY_FRACTION ROPE_SCALING "
    "ROPE_FACTOR JSON_OUTPUT OTLP_ENDPOINT OTLP_SERVICE_NAME CORS_ALLOW_ORIGIN API_KEY WATERMARK_GAMMA "
    "WATERMARK_DELTA NGROK NGROK_AUTHTOKEN NGROK_EDGE TOKENIZER_CONFIG_PATH DISABLE_GRAMMAR_SUPPORT "
    "MAX_CLIENT_BATCH_SIZE LORA_ADAPTERS USAGE_STATS PAYLOAD_LIMIT ENABLE_PREFILL_LOGPROBS "
    "GRACEFUL_TERMINATION_TIMEOUT"
)
REFERENCE = OPTIONS.split()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {}),
        (["serve"], {}),
        (["--model-id", "gpt2", "--port=81"], {"HF_MODEL_ID": "gpt2", "PORT": "81"}),
        (["serve", "-p", "80", "--json-output"], {"PORT": "80", "JSON_OUTPUT": "true"}),
        (["--trust-remote-code", "--max-total-tokens", "64"],
         {"HF_MODEL_TRUST_REMOTE_CODE": "true", "MAX_TOTAL_TOKENS": "64"}),
    ],
)  # fmt: skip
def test_arguments_become_variables(arguments: list[str], expected: dict[str, str]) -> None:
    assert launcher.read_arguments(arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["server"], "Given: server"),
        (["--model", "x"], "Given: --model"),
        (["--model-id"], "--model-id takes a value"),
        (["--api-key="], "--api-key takes a value. Given: ''"),
        (["--model-id", " "], "--model-id takes a value. Given: ' '"),
        (["serve", "serve"], "Given: serve"),
    ],
)
def test_other_arguments_are_refused(arguments: list[str], sentence: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(sentence)):
        launcher.read_arguments(arguments)


@pytest.mark.parametrize("name", REFERENCE)
def test_every_launcher_option_is_an_argument(name: str) -> None:
    flag = "--" + name.lower().replace("_", "-")
    (found,) = launcher.read_arguments([f"{flag}=1"]).items()
    assert found[0] in {name, f"HF_{name}", f"HF_MODEL_{name}"}
    assert found[1] == "1"


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({"HOSTNAME": "127.0.0.1"}, "127.0.0.1"),
        ({"HOSTNAME": "::"}, "::"),
        ({"HOSTNAME": "3f9a1c2b4d5e"}, "0.0.0.0"),
        ({"HOSTNAME": "127.0.0.1", "BIND_ADDRESS": "10.0.0.1"}, "10.0.0.1"),
        ({}, "0.0.0.0"),
    ],
)
def test_hostname_counts_if_it_is_an_address(environ: dict[str, str], address: str) -> None:
    assert Settings.from_environ(launcher.translate(environ)).host == address


@pytest.mark.parametrize(
    ("environ", "token"),
    [
        ({"HF_API_TOKEN": "c"}, "c"),
        ({"HUGGING_FACE_HUB_TOKEN": "b", "HF_API_TOKEN": "c"}, "b"),
        ({"HF_TOKEN": "a", "HF_API_TOKEN": "c"}, "a"),
        ({"HF_TOKEN": " ", "HF_API_TOKEN": "c"}, "c"),
        ({}, None),
    ],
)
def test_the_hubs_token_has_three_names(environ: dict[str, str], token: str | None) -> None:
    assert launcher.translate(environ).get("HF_TOKEN") == token


def test_a_writable_data_volume_is_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path("/data") == launcher._TGI_VOLUME
    monkeypatch.setattr(launcher, "_TGI_VOLUME", tmp_path / "none")
    assert "HF_HUB_CACHE" not in launcher.translate({})
    monkeypatch.setattr(launcher, "_TGI_VOLUME", tmp_path)
    assert launcher.translate({"HF_HOME": ""})["HF_HUB_CACHE"] == str(tmp_path)
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        assert launcher.translate({name: "/elsewhere"}).get("HF_HUB_CACHE") in {None, "/elsewhere"}


@pytest.mark.parametrize(
    ("environ", "number"),
    [
        ({}, 0),
        ({"SM_NUM_GPUS": "4"}, 4),
        ({"NUM_SHARD": "2", "SM_NUM_GPUS": "4"}, 2),
        ({"SHARDED": "false"}, 1),
        ({"SHARDED": "false", "SM_NUM_GPUS": "4"}, 4),
        ({"SHARDED": "true"}, 0),
    ],
)
def test_the_number_of_gpus(environ: dict[str, str], number: int) -> None:
    assert Settings.from_environ(launcher.translate(environ)).num_gpus == number


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"ROPE_FACTOR": "2"}, "ROPE_FACTOR cannot be honoured: set rope_scaling"),
        ({"TOKENIZER_CONFIG_PATH": "/x"}, "TOKENIZER_CONFIG_PATH cannot be honoured"),
        ({"MAX_INPUT_TOKENS": "1", "MAX_INPUT_LENGTH": "2"}, "MAX_INPUT_TOKENS (1) and MAX_INPUT_LENGTH (2)"),
    ],
)
def test_what_would_change_answers_stops_the_start(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as error:
        launcher.check(environ)
    assert str(error.value).startswith(sentence)


def test_what_tunes_speed_is_ignored_with_one_line_each() -> None:
    environ = {"ATTENTION": "paged", "CUDA_GRAPHS": "1,2", "SHARDED": "true", "USAGE_STATS": "off", "NUM_SHARD": "4"}
    lines = launcher.check(environ)
    assert len(lines) == 3
    assert all(" is ignored: " in line for line in lines)
    assert launcher.check({"ROPE_SCALING": " ", "ATTENTION": ""}) == []


def test_an_empty_key_is_said() -> None:
    (line,) = launcher.check({"API_KEY": ""})
    assert "requests need no key" in line
    assert launcher.check({"API_KEY": "a"}) == launcher.check({}) == []


def test_every_launcher_option_is_in_the_migration_guide() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "migrate-from-tgi.md").read_text()
    assert not [name for name in REFERENCE if f"`{name}`" not in guide]
