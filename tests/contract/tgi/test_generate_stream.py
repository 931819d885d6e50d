"""Streams of /generate_stream and / (TGI v3.3.7, router/src/server.rs)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.tgi.conftest import EOS, events, says, says_a_and_eos
from tests.support.server import Server


def body(*, stream: bool | None = None, inputs: str = "hello", **parameters: Any) -> dict[str, Any]:
    return {"inputs": inputs, "parameters": parameters} | ({} if stream is None else {"stream": stream})


def test_one_event_for_each_token_from_index_1(server: Server) -> None:
    found = events(server.request("POST", "/generate_stream", body(**says("ab"), details=True)))
    assert [list(event) for event in found] == [["index", "token", "generated_text", "details"]] * 2
    assert [event["index"] for event in found] == [1, 2]
    assert [event["token"]["text"] for event in found] == ["a", "b"]
    assert [event["token"]["special"] for event in found] == [False, False]
    assert [event["generated_text"] for event in found] == [None, "ab"]
    assert [event["details"] for event in found[:-1]] == [None]
    assert found[-1]["details"] == {
        "finish_reason": "eos_token",
        "generated_tokens": 2,
        "seed": None,
        "input_length": 5,
    }


def test_the_eos_token_has_an_event_and_no_text(server: Server) -> None:
    found = events(server.request("POST", "/generate_stream", body(**says_a_and_eos(server))))
    assert [(event["token"]["text"], event["token"]["special"]) for event in found] == [("a", False), (EOS, True)]
    assert found[-1]["generated_text"] == "a"


def test_without_details_the_last_event_has_the_text_alone(server: Server) -> None:
    found = events(server.request("POST", "/generate_stream", body(**says("ab"))))
    assert (found[-1]["generated_text"], found[-1]["details"]) == ("ab", None)


def test_top_tokens_of_each_event(server: Server) -> None:
    found = events(server.request("POST", "/generate_stream", body(max_new_tokens=3, top_n_tokens=2)))
    assert [len(event["top_tokens"]) for event in found] == [2, 2, 2]
    assert [event["top_tokens"][0]["id"] for event in found] == [event["token"]["id"] for event in found]


@pytest.mark.parametrize(("route", "full_text"), [("/generate_stream", False), ("/", True), ("/invocations", True)])
def test_the_last_text_begins_with_the_prompt_where_whole_answers_do(
    server: Server, route: str, full_text: bool
) -> None:
    found = events(server.request("POST", route, body(stream=True, inputs="hello<", **says("ab"))))
    assert found[-1]["generated_text"] == ("hello<ab" if full_text else "ab")


@pytest.mark.parametrize("route", ["/", "/invocations"])
def test_stream_false_is_a_whole_answer(server: Server, route: str) -> None:
    answer = server.request("POST", route, body(stream=False, **says("ab")))
    assert answer.json == [{"generated_text": "helloab"}]


def test_a_stop_string_ends_the_stream_with_the_token_that_completes_it(server: Server) -> None:
    found = events(server.request("POST", "/generate_stream", body(**says("abcdef", stop=["bc"], details=True))))
    assert [event["token"]["text"] for event in found] == ["a", "b", "c"]
    assert found[-1]["generated_text"] == "abc"
    assert found[-1]["details"]["finish_reason"] == "stop_sequence"


def test_the_headers_of_a_stream(server: Server) -> None:
    answer = server.request("POST", "/generate_stream", body(**says("ab")))
    headers = {name.lower(): value for name, value in answer.headers.items()}
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-compute-type"] == "cpu"
    assert headers["x-compute-characters"] == "5"
    assert "x-total-time" not in headers
    assert "content-length" not in headers


def test_a_streamed_answer_is_the_whole_answer(server: Server) -> None:
    wanted: dict[str, Any] = {"max_new_tokens": 24, "do_sample": True, "seed": 11, "details": True}
    whole = server.request("POST", "/generate", body(**wanted)).json
    found = events(server.request("POST", "/generate_stream", body(**wanted)))
    assert found[-1]["generated_text"] == whole["generated_text"]
    assert [event["token"]["id"] for event in found] == [token["id"] for token in whole["details"]["tokens"]]
    assert found[-1]["details"]["seed"] == 11
