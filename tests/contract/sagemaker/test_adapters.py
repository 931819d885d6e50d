"""A request for an adapter that is not loaded is refused in its dialect: the base model never answers for it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.sagemaker.bodies import ADAPTER, ATTRIBUTES, CASES, ROUTED, TEXT, check_refusal, is_openai
from tests.support.server import Server


def unknown(place: str) -> str:
    return f'`{place}` must be the name of an adapter that is loaded. Given: "my-lora"'


@pytest.mark.parametrize(("path", "body"), CASES)
def test_sagemakers_header_is_refused(tiny_server: Server, path: str, body: dict[str, Any]) -> None:
    answer = tiny_server.request("POST", path, body, **{ADAPTER: "my-lora"})
    check_refusal(answer, unknown(ADAPTER), openai=is_openai(path, body))


def test_every_route_with_a_body_is_among_them(tiny_server: Server) -> None:
    paths = tiny_server.request("GET", "/api-doc/openapi.json").json["paths"]
    managing = {"/adapters", "/adapters/{name}/update", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"}
    with_body = {path for path, methods in paths.items() if "requestBody" in methods.get("post", {})}
    assert with_body == {path for path, _ in CASES} | managing


@pytest.mark.parametrize("route", ROUTED)
def test_a_route_in_the_attributes_changes_nothing(tiny_server: Server, route: str) -> None:
    headers = {ADAPTER: "my-lora", ATTRIBUTES: f"route={route}"}
    answer = tiny_server.request("POST", "/invocations", ROUTED[route], **headers)
    check_refusal(answer, unknown(ADAPTER), openai=is_openai(route, {}))


@pytest.mark.parametrize(("path", "body"), CASES)
@pytest.mark.parametrize("adapters", ["my-lora", ["my-lora", "my-lora"]])
def test_lmis_field_is_refused(tiny_server: Server, path: str, body: dict[str, Any], adapters: Any) -> None:
    answer = tiny_server.request("POST", path, body | {"adapters": adapters})
    check_refusal(answer, unknown("adapters"), openai=is_openai(path, body))


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/generate", {"inputs": "hello", "parameters": {"adapters": "my-lora"}}, "adapters"),
        ("/generate", {"inputs": "hello", "parameters": {"adapter_id": "my-lora"}}, "adapter_id"),
        ("/invocations", {"inputs": "hello", "parameters": {"adapter_id": "my-lora"}, "stream": True}, "adapter_id"),
        ("/vertex", {"instances": [TEXT, TEXT | {"adapters": ["my-lora"]}]}, "adapters"),
        ("/vertex", {"instances": [{"inputs": "hello", "parameters": {"adapter_id": "my-lora"}}]}, "adapter_id"),
    ],
)
def test_a_name_in_any_other_place_is_refused(tiny_server: Server, path: str, body: Any, place: str) -> None:
    check_refusal(tiny_server.request("POST", path, body), unknown(place), openai=False)


@pytest.mark.parametrize(("path", "body"), CASES)
def test_no_name_is_no_adapter(tiny_server: Server, path: str, body: dict[str, Any]) -> None:
    for adapters in (None, "", [], ["", None]):
        answer = tiny_server.request("POST", path, body | {"adapters": adapters}, **{ADAPTER: ""})
        assert answer.status == 200, answer.body


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_there_is_none(tiny_server: Server, method: str) -> None:
    assert tiny_server.request("GET", "/adapters").json == {"adapters": []}
    answer = tiny_server.request(method, "/adapters/my-lora")
    assert answer.status == 404
    assert answer.json == {"code": 404, "type": "adapter_not_found", "message": "the adapter 'my-lora' was not found"}


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"])
def test_vllms_routes_are_off_as_there(tiny_server: Server, path: str) -> None:
    answer = tiny_server.request("POST", path, {"lora_name": "a", "lora_path": "/b"})
    assert answer.status == 404
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=true turns it on" in answer.json["error"]["message"]
