"""Bodies of a wrong shape, API key, limits, CORS, unknown routes: what TGI's web framework does (1.2, 2.2)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.server import Answer, Server

DATA = "Failed to deserialize the JSON body into the target type: "
SYNTAX = "Failed to parse the request body as JSON: "


def plain(answer: Answer, status: int, text: str) -> None:
    assert (answer.status, answer.body.decode()) == (status, text)
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{}", "missing field `inputs` at line 1 column 2"),
        (b'{"inputs": 5}', "inputs: invalid type: integer `5`, expected a string at line 1 column 12"),
        (b'{"inputs": null}', "inputs: invalid type: null, expected a string at line 1 column 15"),
        (b'{"inputs": [1]}', "inputs: invalid type: sequence, expected a string at line 1 column 11"),
        (b'{"inputs":"x","parameters":null}',
         "parameters: invalid type: null, expected struct GenerateParameters at line 1 column 31"),
        (b'{"inputs":"x","parameters":{"do_sample":null}}',
         "parameters.do_sample: invalid type: null, expected a boolean at line 1 column 44"),
        (b'{"inputs":"x","parameters":{"stop":null}}',
         "parameters.stop: invalid type: null, expected a sequence at line 1 column 39"),
        (b'{"inputs":"x","parameters":{"stop":["a",1]}}',
         "parameters.stop[1]: invalid type: integer `1`, expected a string at line 1 column 41"),
        (b'{"inputs":"x",\n"parameters":{"temperature":"hot"}}',
         'parameters.temperature: invalid type: string "hot", expected f32 at line 2 column 33'),
        (b'{"inputs":"x","parameters":{"max_new_tokens":-1}}',
         "parameters.max_new_tokens: invalid value: integer `-1`, expected u32 at line 1 column 47"),
        (b'{"inputs":"x","parameters":{"max_new_tokens":1.5}}',
         "parameters.max_new_tokens: invalid type: floating point `1.5`, expected u32 at line 1 column 48"),
        (b'{"inputs":"x","parameters":{"grammar":{"type":"regex"}}}',
         "parameters.grammar: missing field `value` at line 1 column 54"),
        (b'{"inputs":"x","parameters":{"grammar":{"type":"xml","value":"a"}}}',
         "parameters.grammar.type: unknown variant `xml`, expected one of `json`, `json_object`, `regex`, `json_schema`"
         " at line 1 column 51"),
        (b'{"inputs":"x","parameters":{"seed":-1}}',
         "parameters.seed: invalid value: integer `-1`, expected u64 at line 1 column 37"),
        (b'{"inputs":"x","parameters":{"details":1}}',
         "parameters.details: invalid type: integer `1`, expected a boolean at line 1 column 39"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("route", ["/generate", "/generate_stream", "/"])
def test_wrong_shapes(server: Server, route: str, body: bytes, text: str) -> None:
    plain(server.request("POST", route, body), 422, DATA + text)


NEVER_NULL = {"do_sample", "stop", "watermark", "details", "decoder_input_details"}
PARAMETERS = (
    *("best_of", "temperature", "repetition_penalty", "frequency_penalty", "top_k", "top_p", "typical_p", "do_sample"),
    *("max_new_tokens", "return_full_text", "stop", "truncate", "watermark", "details", "decoder_input_details"),
    *("seed", "top_n_tokens", "grammar", "adapter_id"),
)


@pytest.mark.parametrize("name", PARAMETERS)
def test_null_is_absent_where_rust_has_an_option(server: Server, name: str) -> None:
    parameters = {name: None} if name == "max_new_tokens" else {"max_new_tokens": 1, name: None}
    answer = server.request("POST", "/generate", {"inputs": "x" * 500, "parameters": parameters})
    assert answer.status == (422 if name in NEVER_NULL else 200), answer.body
    if name in NEVER_NULL:
        assert f"parameters.{name}: invalid type: null, expected a " in answer.body.decode()


def test_a_stream_of_null_is_no_boolean(server: Server) -> None:
    answer = server.request("POST", "/", b'{"inputs":"x","stream":null}')
    plain(answer, 422, DATA + "stream: invalid type: null, expected a boolean at line 1 column 27")


def test_a_wrong_shape_of_a_text_to_tokenize(server: Server) -> None:
    answer = server.request("POST", "/tokenize", b'{"inputs": 5}')
    plain(answer, 422, DATA + "inputs: invalid type: integer `5`, expected a string at line 1 column 12")


def test_a_whole_number_may_have_a_decimal_point(server: Server) -> None:
    body = b'{"inputs":"x","parameters":{"max_new_tokens":2.0,"temperature":1.0}}'
    assert server.request("POST", "/generate", body).headers["x-generated-tokens"] == "2"


def test_a_number_without_end(server: Server) -> None:
    answer = server.request("POST", "/generate", b'{"inputs":"x","parameters":{"temperature":1e999}}')
    plain(answer, 400, SYNTAX + "number out of range")


def test_a_stream_that_is_no_boolean(server: Server) -> None:
    answer = server.request("POST", "/", b'{"inputs":"x","stream":"yes"}')
    plain(answer, 422, DATA + 'stream: invalid type: string "yes", expected a boolean at line 1 column 28')


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "EOF while parsing a value at line 1 column 1"),
        (b"", "the body is empty: EOF while parsing a value at line 1 column 0"),
        (b'{"inputs":\n "x",}', "JSON is malformed: trailing comma in object at line 2 column 5"),
    ],
)
def test_no_json(server: Server, body: bytes, text: str) -> None:
    plain(server.request("POST", "/generate", body), 400, SYNTAX + text)


@pytest.mark.parametrize("media_type", ["text/plain", "application/octet-stream", "application/x-www-form-urlencoded"])
def test_another_media_type(server: Server, media_type: str) -> None:
    answer = server.request("POST", "/generate", {"inputs": "x"}, Content_Type=media_type)
    plain(answer, 415, "Expected request with `Content-Type: application/json`")


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "application/vnd.api+json"])
def test_json_by_other_names(server: Server, media_type: str) -> None:
    body = {"inputs": "x", "parameters": {"max_new_tokens": 1}}
    assert server.request("POST", "/generate", body, Content_Type=media_type).status == 200


def test_the_limit_of_a_body_is_tgis(server: Server) -> None:
    """2,000,000 bytes; refused for its parameters, that is read to its end."""
    head, tail = b'{"parameters":{"top_k":0},"inputs":"', b'"}'
    fits = head + b"x" * (2_000_000 - len(head) - len(tail)) + tail
    assert "`top_k`" in server.request("POST", "/generate", fits).json["error"]
    plain(
        server.request("POST", "/generate", fits + b" "),
        413,
        "Failed to buffer the request body: length limit exceeded",
    )


def test_a_long_body(strict_server: Server) -> None:
    def ask(route: str) -> Answer:
        return strict_server.request("POST", route, {"inputs": "x" * 1000}, Authorization="Bearer Secret")

    plain(ask("/generate"), 413, "Failed to buffer the request body: length limit exceeded")
    assert ask("/invocations").status == 422, "SageMaker's limit is another one"


@pytest.mark.parametrize("route", ["/generate", "/generate_stream", "/", "/tokenize", "/vertex", "/invocations"])
@pytest.mark.parametrize("key", [None, "Bearer wrong", "Secret", "Basic Secret"])
def test_generating_takes_the_key(strict_server: Server, route: str, key: str | None) -> None:
    headers = {} if key is None else {"Authorization": key}
    assert strict_server.request("POST", route, {"inputs": "x"}, **headers).status == 401


def test_the_key_opens_and_its_scheme_has_no_case(strict_server: Server) -> None:
    body = {"inputs": "x", "parameters": {"max_new_tokens": 1}}
    for key in ("Bearer Secret", "bearer Secret"):
        assert strict_server.request("POST", "/generate", body, Authorization=key).status == 200


@pytest.mark.parametrize("route", ["/", "/health", "/ping", "/metrics"])
def test_probes_take_no_key(strict_server: Server, route: str) -> None:
    assert strict_server.request("GET", route).status == 200


@pytest.mark.parametrize(
    ("origin", "allowed"), [("https://b.example", "https://b.example"), ("https://evil.example", None), ("", None)]
)
def test_listed_origins(strict_server: Server, origin: str, allowed: str | None) -> None:
    answer = strict_server.request("OPTIONS", "/generate", Origin=origin)
    assert answer.status == 200
    assert answer.headers.get("Access-Control-Allow-Origin") == allowed
    assert "Origin" in answer.headers["Vary"]


def test_any_origin(server: Server) -> None:
    answer = server.request("OPTIONS", "/generate", Origin="https://a.example")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.status == 200
    # "*" holds for any header but `authorization` (WHATWG Fetch).
    assert answer.headers["Access-Control-Allow-Headers"] == "*, authorization"
    assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST, DELETE"
    assert server.request("GET", "/info").headers["Access-Control-Allow-Origin"] == "*"


def test_routes_and_methods_that_do_not_exist(server: Server) -> None:
    assert server.request("GET", "/nowhere").status == 404
    answer = server.request("GET", "/generate")
    assert answer.status == 405
    assert "POST" in answer.headers["Allow"]
    for route in ("/info", "/health", "/metrics", "/v1/models"):
        answer = server.request("POST", route, {})
        assert answer.status == 405
        assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize("route", ["/health", "/ping", "/"])
def test_health_has_an_empty_body(server: Server, route: str) -> None:
    answer: Any = server.request("GET", route)
    assert (answer.status, answer.body) == (200, b"")
