"""Reading the environment."""

from __future__ import annotations

import dataclasses

import pytest

from container.settings import Settings, SettingsError


def test_nothing_set_gives_the_defaults() -> None:
    assert Settings.from_environ({}) == Settings()
    assert Settings.from_environ({"PORT": "", "HF_MODEL_ID": " "}) == Settings()


def test_every_variable_may_be_empty() -> None:
    """SageMaker's SDK sets some of its own to nothing."""
    names = [name for item in dataclasses.fields(Settings) for name in item.metadata["names"]]
    assert {"SAGEMAKER_BIND_TO_PORT", "SAGEMAKER_CONTAINER_LOG_LEVEL", "HF_MODEL_ID"} <= set(names)
    assert Settings.from_environ(dict.fromkeys(names, "")) == Settings()
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
