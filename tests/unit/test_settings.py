"""Reading the environment."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from container.settings import Settings, SettingsError
from handler.seam.config import AdapterSource


def test_nothing_set_gives_the_defaults() -> None:
    assert Settings.from_environ({}) == Settings()
    assert Settings.from_environ({"PORT": "", "HF_MODEL_ID": ""}) == Settings()


NAMES = [name for item in dataclasses.fields(Settings) for name in item.metadata["names"]]


@pytest.mark.parametrize("blank", [" ", "\t\n"])
@pytest.mark.parametrize("name", NAMES)
def test_a_blank_setting_is_an_error_that_names_it(name: str, blank: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} is blank"):
        Settings.from_environ({name: blank})


@pytest.mark.parametrize("value", ['"1"', "'1'", '""', "'", ' "true"\n', '"a,b"'])
@pytest.mark.parametrize("name", NAMES)
def test_quotes_that_a_file_of_variables_keeps_are_an_error(name: str, value: str) -> None:
    """Docker's --env-file does; a key in quotes would lock everybody out."""
    with pytest.raises(SettingsError, match=f"^{name} is in quotes: leave them out"):
        Settings.from_environ({name: value})


NUMBERS = {"0", "-1", "nan", "inf", "-inf", "1e400", "1e-400", "9" * 40, "0x10", "5", "1.5", "-0"}


@pytest.mark.parametrize("value", sorted({*NUMBERS, "yes", "TRUE", "off", "maybe", "a\nb", "\u0663"}))
@pytest.mark.parametrize("item", dataclasses.fields(Settings), ids=lambda item: item.name)
def test_any_value_is_meant_or_an_error_that_names_the_variable(item: Any, value: str) -> None:
    name = item.metadata["names"][0]
    try:
        found = getattr(Settings.from_environ({name: value}), item.name)
    except SettingsError as exc:
        found = exc
    if isinstance(found, SettingsError):
        assert str(found).startswith(f"{name} must be ")
        assert "\n" not in str(found)
        return
    assert getattr(Settings.from_environ({name: f" {value}\n"}), item.name) == found, "the last newline of a file"
    if isinstance(found, bool):
        assert found == (value in {"TRUE", "yes"})
    elif isinstance(found, int | float):
        assert found == (100 if value == "off" else float(value))
        assert 0 <= found <= 2**31
    elif isinstance(found, tuple):
        assert found == (AdapterSource(value, value),)
    else:
        assert found in {value, value.lower()}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("API_KEY", value) for value in (",", " , ,", "\u00e9", "a,\u00e9", "a\nb")),
        *(
            ("CORS_ALLOW_ORIGIN", value)
            for value in (",", " , ,", "*,a", "a.example", "https://a.example/b", "a b://c")
        ),
    ],
)
def test_a_guard_that_could_never_match_is_an_error(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} must be ") as error:
        Settings.from_environ({name: value})
    shown = "(hidden)" if name == "API_KEY" else repr(value.strip())
    assert str(error.value).endswith(f"Given: {shown}")


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("*", "*"),
        ("https://A.example/, http://b.example:81,", "https://a.example,http://b.example:81"),
        ("null,chrome-extension://abc", "null,chrome-extension://abc"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_origins_are_written_as_browsers_send_them(value: str, origins: str) -> None:
    assert Settings.from_environ({"CORS_ALLOW_ORIGIN": value}).cors_allow_origin == origins


@pytest.mark.parametrize(
    ("value", "adapters"),
    [
        ("org/a", [("org/a", "org/a", None)]),
        (" a=/x y/z , org/b@v1,", [("a", "/x y/z", None), ("org/b", "org/b", "v1")]),
        ("a = org/x @ main", None),
        ("a=org/x@main", [("a", "org/x", "main")]),
        *(
            (value, None)
            for value in (
                "/x",
                "a;b",
                "a//b",
                "../a",
                "a/update",
                "a=b=c",
                "a@b@c",
                "a@b=c",
                "=a",
                "a=",
                "@v",
                "a,a=b",
                "a b",
                "é",
                "a=b\nc",
                "a= @v",
                ",",
            )
        ),
    ],
)
def test_adapters_are_entries_of_tgis_list(value: str, adapters: list[tuple[str, str, str | None]] | None) -> None:
    if adapters is None:
        with pytest.raises(SettingsError, match=r"^LORA_ADAPTERS must be entries id\[=path\]\[@revision\]"):
            Settings.from_environ({"LORA_ADAPTERS": value})
    else:
        found = Settings.from_environ({"LORA_ADAPTERS": value}).adapters
        assert [(each.name, each.path, each.revision) for each in found] == adapters


@pytest.mark.parametrize(
    ("given", "reserves"),
    [
        ({}, False),
        ({"MAX_ADAPTERS": "4"}, False),
        ({"LORA_ADAPTERS": "a"}, True),
        ({"OPTION_ENABLE_LORA": "true"}, True),
        ({"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}, True),
    ],
)
def test_adapters_take_gpu_memory_where_they_are_asked_for(given: dict[str, str], reserves: bool) -> None:
    assert Settings.from_environ(given).reserves_adapters is reserves
    assert Settings.from_environ(given).awaits_adapters is reserves
    if "LORA_ADAPTERS" not in given:
        assert not Settings.from_environ(given | {"MAX_ADAPTERS": "0"}).awaits_adapters


@pytest.mark.parametrize("limits", [{"MAX_ADAPTERS": "0"}, {"MAX_ADAPTERS": "1", "MAX_CPU_ADAPTERS": "1"}])
def test_more_adapters_than_are_allowed_end_the_start(limits: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"MAX_CPU_ADAPTERS allow \([01]\)\. Given: 2$"):
        Settings.from_environ({"LORA_ADAPTERS": "a,b"} | limits)
    assert len(Settings.from_environ({"LORA_ADAPTERS": "a,b", "MAX_ADAPTERS": "1"}).adapters) == 2


@pytest.mark.parametrize(
    "environ",
    [
        {"LORA_ADAPTERS": "tgi=/x"},
        {"LORA_ADAPTERS": "dummy=/x"},
        {"LORA_ADAPTERS": "a,org/m", "MODEL_ID": "org/m"},
        {"LORA_ADAPTERS": "mine=/x", "MODEL_ID": "org/m", "SERVED_MODEL_NAME": "mine"},
    ],
)
def test_an_adapter_with_the_models_name_ends_the_start(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"^LORA_ADAPTERS must not have a name of the model itself"):
        Settings.from_environ(environ)


def test_keys_without_the_gaps() -> None:
    assert Settings.from_environ({"API_KEY": " a ,, b,"}).api_key == "a,b"


def test_every_variable_may_be_empty() -> None:
    """SageMaker's SDK sets some of its own to nothing."""
    assert {"SAGEMAKER_BIND_TO_PORT", "SAGEMAKER_CONTAINER_LOG_LEVEL", "HF_MODEL_ID"} <= set(NAMES)
    assert Settings.from_environ(dict.fromkeys(NAMES, "")) == Settings()
    assert Settings.from_environ({"SAGEMAKER_BIND_TO_PORT": "", "PORT": "81"}).port == 81


def test_the_first_name_wins() -> None:
    assert Settings.from_environ({"PORT": "80", "SAGEMAKER_BIND_TO_PORT": "9000"}).port == 9000
    assert Settings.from_environ({"PORT": "80", "AIP_HTTP_PORT": "81"}).port == 81, "the image sets PORT"
    assert Settings.from_environ({"MODEL_ID": "b", "HF_MODEL_ID": "a"}).model == "a"
    assert Settings.from_environ({"MODEL_ID": "b", "HF_MODEL_ID": ""}).model == "b"


@pytest.mark.parametrize(
    ("value", "level"), [("20", 20), ("INFO", 20), ("warn", 30), ("info,text_generation_router=debug", 20)]
)
def test_log_levels_are_names_or_numbers(value: str, level: int) -> None:
    assert Settings.from_environ({"SAGEMAKER_CONTAINER_LOG_LEVEL": value}).log_level == level


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT", "0", "PORT must be a whole number from 1 to 65535. Given: '0'"),
        ("PORT", "8080x", "PORT must be a whole number from 1 to 65535. Given: '8080x'"),
        ("HF_MODEL_TRUST_REMOTE_CODE", "maybe", "HF_MODEL_TRUST_REMOTE_CODE must be true or false"),
        ("HF_MODEL_QUANTIZE", "int3", "HF_MODEL_QUANTIZE must be one of none, bitsandbytes, "),
        ("REQUEST_TIMEOUT_S", "-1", "REQUEST_TIMEOUT_S must be a number of seconds"),
        ("REQUEST_TIMEOUT_S", "nan", "REQUEST_TIMEOUT_S must be a number of seconds"),
        ("AIP_PREDICT_ROUTE", "predict", "AIP_PREDICT_ROUTE must be a path that begins with /"),
        ("AIP_HEALTH_ROUTE", "/<x>", "AIP_HEALTH_ROUTE must be a path that begins with /"),
        ("AIP_HTTP_PORT", "http", "AIP_HTTP_PORT must be a whole number from 1 to 65535. Given: 'http'"),
        ("COMPUTE_TYPE", "a\nb", "COMPUTE_TYPE must be printable ASCII characters"),
        ("DEVICE", "gpu", "DEVICE must be auto, cpu, cuda or cuda:N. Given: 'gpu'"),
        ("LOG_LEVEL", ",", "LOG_LEVEL must be a level name"),
        ("LOG_LEVEL", "loud", "LOG_LEVEL must be a level name"),
    ],
)
def test_an_impossible_value_names_variable_limit_and_value(name: str, value: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_environ({name: value})
    assert str(error.value).startswith(sentence)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]
