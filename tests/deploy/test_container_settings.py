"""What the helper knows of the container's variables is what the container itself says."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from sagemaker_deploy.request import container_settings
from sagemaker_deploy.request.container_settings import IGNORED, REFUSED, SETTINGS, problems
from sagemaker_deploy.sizing.hub import TOKEN_NAMES

VALUES = [
    *(" ", "0", "1", "-1", "2", "5", "20", "21", "64", "65", "128", "129", "1024", "1025", "4097", "65535", "65536"),
    *("1000001", str(2**31), str(2**31 + 1), "1.5", "1_0", " 7 ", "86400", "86401", "100.5", "nan", "inf", "٣", "²"),
    *("true", "TRUE", "yes", "off", "maybe", "auto", "cpu", "cuda", "cuda:1", "cuda:", "CUDA", "float16", "float8"),
    *("none", "int8", "int4", "exl2", "gptq", "int3", "paged", "slots", "info", "INFO,x=debug", "loud", "7", "warn"),
    *("*", "https://a", "https://a/", "HTTPS://A:1", "https://a/b", "null", "NULL", ",", "a,b", "a b", "kéy", "key\n1"),
    *("a=/x", "a=/x@v1,b", "a@v1", "a@v1@v2", "a=b=c", "=x", "a=", "a,a=/x", "a=é", "a@v=b", "a= /x @ v1", "a= @v"),
    *("a/update", "a;b=/x", "a//b", "../a=/x", "org/a.b", "a" * 257),
    *("/x", "/x<y>", "x", "/a/b?c", "org/m", "\u00a0", "\t", "0.0.0.0"),
]


@pytest.mark.needs("torch")
def test_the_names_are_the_containers() -> None:
    from container.settings import Settings
    from container.supervisor import launcher

    assert [names for names, _ in SETTINGS] == [item.metadata["names"] for item in fields(Settings)]
    assert set(REFUSED) == launcher._REFUSED.keys()
    assert set(IGNORED) == launcher._IGNORED.keys()
    assert TOKEN_NAMES == container_settings.TOKEN_NAMES == launcher._TOKENS


@pytest.mark.needs("torch")
@pytest.mark.parametrize("name", [name for names, _ in SETTINGS for name in names])
def test_a_value_is_possible_exactly_if_the_container_takes_it(name: str) -> None:
    from container.settings import Settings, SettingsError

    taken, refused = set(), set()
    for value in VALUES:
        try:
            Settings.from_environ({name: value})
            taken.add(value)
        except SettingsError:
            refused.add(value)
    assert {value for value in VALUES if not list(problems({name: value}))} == taken
    assert refused == set(VALUES) - taken
    assert not list(problems({name: ""}))


@pytest.mark.needs("torch")
@pytest.mark.parametrize("protocol", ["http/json", "grpc", "http/protobuf", ""])
@pytest.mark.parametrize(
    "others",
    [
        {},
        *({name: "http://c:4318"} for name in container_settings.COLLECTOR_NAMES),
        {"OTLP_ENDPOINT": "c:1", "OTEL_SDK_DISABLED": "TRUE"},
        {"OTLP_ENDPOINT": "c:1", "OTEL_SDK_DISABLED": "off"},
        {"OTLP_ENDPOINT": "c:1", "OTEL_TRACES_EXPORTER": "none"},
        {"OTLP_ENDPOINT": "c:1", "OTEL_TRACES_EXPORTER": "console, otlp"},
        {"OTLP_ENDPOINT": "c:1", "OTEL_TRACES_EXPORTER": "OTLP"},
    ],
)
@pytest.mark.parametrize("name", container_settings.PROTOCOL_NAMES)
def test_a_protocol_is_refused_exactly_if_the_container_refuses_it(
    name: str, protocol: str, others: dict[str, str]
) -> None:
    from container.settings import Settings, SettingsError

    environ = {name: protocol, **others}
    try:
        Settings.from_environ(environ)
    except SettingsError:
        (problem,) = problems(environ)
        assert "must be grpc or http/protobuf, got 'http/json'" in problem
    else:
        assert not list(problems(environ))


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"MAX_INPUT_TOKENS": "9", "MAX_TOTAL_TOKENS": "9"}, "must be below"),
        ({"MAX_INPUT_LENGTH": "9", "MAX_TOTAL_TOKENS": "8"}, "must be below"),
        ({"HF_MODEL_QUANTIZE": "none", "QUANTIZE": "eetq"}, "QUANTIZE does nothing beside HF_MODEL_QUANTIZE"),
        ({"HF_TOKEN": "a", "HF_API_TOKEN": "b"}, "HF_API_TOKEN does nothing beside HF_TOKEN"),
        ({"ROPE_SCALING": "x"}, "the container refuses ROPE_SCALING"),
        ({"LORA_ADAPTERS": "a=/x=y"}, "id[=path][@revision]"),
        ({"LORA_ADAPTERS": "/adapters/a"}, "id[=path][@revision]"),
        ({"LORA_ADAPTERS": "dummy=/x"}, "must not have a name of the model itself"),
        ({"LORA_ADAPTERS": "b,tgi=/x"}, "must not have a name of the model itself"),
        ({"LORA_ADAPTERS": "org/a@v1", "MODEL_ID": "org/a"}, "must not have a name of the model itself"),
        ({"API_KEY": "kéy"}, "printable ASCII"),
    ],
)
def test_what_would_be_refused_or_never_read_is_named(environment: dict[str, str], says: str) -> None:
    (problem,) = problems(environment)
    assert says in problem
    assert "kéy" not in problem


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTHER": " "},
        {"HF_MODEL_QUANTIZE": "none", "QUANTIZE": "none"},
        {"HF_MODEL_QUANTIZE": "", "QUANTIZE": "none"},
        {"MAX_INPUT_TOKENS": "8", "MAX_TOTAL_TOKENS": "9"},
        {"ROPE_SCALING": ""},
        {"LORA_ADAPTERS": "org/a", "MODEL_ID": "org/a", "SERVED_MODEL_NAME": "b"},
    ],
)
def test_the_rest_is_no_problem(environment: dict[str, str]) -> None:
    assert not list(problems(environment))


def test_this_page_is_where_the_refusal_points() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "migrate-from-tgi.md").read_text()
    assert all(f"`{name}`" in text for name in REFUSED)
