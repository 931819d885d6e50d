"""Whole answers: /generate, / and /predict (TGI v3.3.7, router/src/server.rs)."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
from packaging.version import Version

from container.version import VERSION
from tests.contract.tgi.conftest import EOS, says, says_a_and_eos
from tests.support.server import Server


def generate(server: Server, inputs: str = "hello", route: str = "/generate", **parameters: Any) -> Any:
    answer = server.request("POST", route, {"inputs": inputs, "parameters": parameters})
    assert answer.status == 200, answer.body
    return answer.json


def test_an_answer_is_its_text_alone(server: Server) -> None:
    assert generate(server, **says("ab")) == {"generated_text": "ab"}


def test_details(server: Server) -> None:
    found = generate(server, **says("ab"), details=True)
    assert list(found) == ["generated_text", "details"]
    details = found["details"]
    assert list(details) == ["finish_reason", "generated_tokens", "seed", "prefill", "tokens"]
    assert details["finish_reason"] == "eos_token"
    assert details["generated_tokens"] == 2
    assert details["seed"] is None
    assert details["prefill"] == []
    assert [(token["text"], token["special"]) for token in details["tokens"]] == [("a", False), ("b", False)]
    assert all(set(token) == {"id", "text", "logprob", "special"} for token in details["tokens"])
    # The log-probability is that of the masked distribution: only one token was left each time.
    assert [token["logprob"] for token in details["tokens"]] == pytest.approx([0, 0], abs=1e-6)


def test_the_eos_token_is_shown_and_is_no_text(server: Server) -> None:
    found = generate(server, **says_a_and_eos(server), details=True)
    assert found["generated_text"] == "a"
    assert found["details"]["finish_reason"] == "eos_token"
    assert found["details"]["generated_tokens"] == 2
    assert (found["details"]["tokens"][1]["text"], found["details"]["tokens"][1]["special"]) == (EOS, True)


def test_logprobs_are_those_after_warping(server: Server) -> None:
    """One token is left by `top_k` 1; a low temperature leaves little but the likeliest."""

    def logprobs(**warpers: Any) -> list[float]:
        wanted = {"max_new_tokens": 4, "details": True, "top_n_tokens": 1, **warpers}
        return [top[0]["logprob"] for top in generate(server, **wanted)["details"]["top_tokens"]]

    assert logprobs(top_k=1) == pytest.approx([0] * 4, abs=1e-6)
    assert max(logprobs()) < -0.1
    assert min(logprobs(temperature=0.001)) > max(logprobs())


def test_details_come_with_the_prompts_tokens(server: Server) -> None:
    details = generate(server, "hey", **says("ab"), decoder_input_details=True)["details"]
    assert [token["text"] for token in details["prefill"]] == ["h", "e", "y"]
    first, *others = [token["logprob"] for token in details["prefill"]]
    assert first is None
    assert all(logprob < 0 for logprob in others)


def test_top_tokens(server: Server) -> None:
    details = generate(server, max_new_tokens=2, top_n_tokens=3, details=True)["details"]
    assert [len(tokens) for tokens in details["top_tokens"]] == [3, 3]
    for chosen, best in zip(details["tokens"], details["top_tokens"], strict=True):
        assert best[0]["id"] == chosen["id"]
        assert [token["logprob"] for token in best] == sorted((t["logprob"] for t in best), reverse=True)
        assert set(best[0]) == {"id", "text", "logprob", "special"}


def test_top_n_tokens_of_zero_shows_none(server: Server) -> None:
    assert "top_tokens" not in generate(server, max_new_tokens=2, top_n_tokens=0, details=True)["details"]


def test_best_of_shows_the_losers_after_the_best(server: Server) -> None:
    details = generate(server, max_new_tokens=6, do_sample=True, best_of=2, details=True, top_n_tokens=1)["details"]
    (loser,) = details["best_of_sequences"]
    assert list(loser) == [
        "generated_text", "finish_reason", "generated_tokens", "seed", "prefill", "tokens", "top_tokens",
    ]  # fmt: skip
    mean = [sum(t["logprob"] for t in each["tokens"]) / len(each["tokens"]) for each in (details, loser)]
    assert mean[0] >= mean[1]
    assert isinstance(details["seed"], int)
    assert details["seed"] != loser["seed"]


@pytest.mark.parametrize("best_of", [0, 1])
def test_best_of_one_has_no_losers(server: Server, best_of: int) -> None:
    assert "best_of_sequences" not in generate(server, max_new_tokens=1, best_of=best_of, details=True)["details"]


def test_a_seed_is_echoed_and_gives_the_answer_again(server: Server) -> None:
    wanted: dict[str, Any] = {"max_new_tokens": 8, "do_sample": True, "details": True}
    first = generate(server, **wanted)
    again = generate(server, **wanted, seed=first["details"]["seed"])
    assert first == again
    assert generate(server, **wanted, seed=2**64 - 1)["details"]["seed"] == 2**64 - 1


def test_a_seed_of_a_greedy_answer_is_null(server: Server) -> None:
    assert generate(server, max_new_tokens=1, seed=7, details=True)["details"]["seed"] is None


@pytest.mark.parametrize(
    ("body", "samples"),
    [
        ({}, True),
        ({"parameters": {}}, False),
        ({"parameters": {"temperature": 1.0}}, False),
        ({"parameters": {"temperature": 0.5}}, True),
        ({"parameters": {"top_k": 5}}, True),
        ({"parameters": {"top_p": 0.5}}, True),
        ({"parameters": {"typical_p": 0.5}}, True),
    ],
)
def test_absent_parameters_sample_and_empty_ones_do_not(server: Server, body: dict[str, Any], samples: bool) -> None:
    """Over HTTP `details` needs `parameters`, so absent ones show by two answers that differ."""
    if "parameters" in body:
        body["parameters"] |= {"max_new_tokens": 1, "details": True}
        found = server.request("POST", "/generate", {"inputs": "x"} | body).json
        assert (found["details"]["seed"] is not None) == samples
    else:
        long = "x" * 480
        # One of many may end at once, as may another; all of them are the same if nothing is drawn.
        assert len({server.request("POST", "/generate", {"inputs": long}).body for _ in range(6)}) > 1


def test_unknown_keys_and_nulls_are_nothing(server: Server) -> None:
    given = {"colour": "red", "temperature": None, "seed": None, "grammar": None, "adapter_id": None, "top_k": None}
    body = {"inputs": "x", "parameters": {"max_new_tokens": 1} | given, "options": {"wait_for_model": True}}
    assert server.request("POST", "/generate", body).status == 200


@pytest.mark.parametrize(
    ("route", "given", "expected"),
    [
        ("/generate", None, "ab"),
        ("/generate", False, "ab"),
        ("/generate", True, "hello<ab"),
        ("/", None, "hello<ab"),
        ("/", False, "ab"),
        ("/", True, "hello<ab"),
        ("/predict", None, "hello<ab"),
        ("/invocations", None, "hello<ab"),
    ],
)
def test_return_full_text(server: Server, route: str, given: bool | None, expected: str) -> None:
    found = generate(server, "hello<", route, **says("ab"), return_full_text=given)
    assert found == ({"generated_text": expected} if route == "/generate" else [{"generated_text": expected}])


def test_truncate_keeps_the_last_tokens_and_the_text(server: Server) -> None:
    found = generate(server, "abcdef", **says("x"), truncate=2, decoder_input_details=True, return_full_text=True)
    assert [token["text"] for token in found["details"]["prefill"]] == ["e", "f"]
    assert found["generated_text"] == "abcdefx"


@pytest.mark.parametrize(
    ("parameters", "reason", "text"),
    [
        (says("abcdef", stop=["bc"]), "stop_sequence", "abc"),
        (says("abcdef", stop=["zz", "de", "c"]), "stop_sequence", "abc"),
        (says("abcdef", max_new_tokens=4), "length", "abcd"),
        (says("abc", max_new_tokens=3, stop=["c"]), "length", "abc"),
        (says("abc", max_new_tokens=5), "eos_token", "abc"),
    ],
)
def test_the_end_by_length_then_eos_then_stop(server: Server, parameters: Any, reason: str, text: str) -> None:
    """The stop text stays in the answer; the number of tokens is looked at first."""
    found = generate(server, **parameters, details=True)
    assert (found["details"]["finish_reason"], found["generated_text"]) == (reason, text)


def test_an_eos_token_in_the_last_place_is_a_length(server: Server) -> None:
    wanted = says_a_and_eos(server) | {"max_new_tokens": 2, "details": True}
    found = generate(server, **wanted)
    assert (found["details"]["finish_reason"], found["generated_text"]) == ("length", "a")


def test_a_watermark_prefers_the_green_half(server: Server) -> None:
    """The previous token seeds the green half (TGI's text_generation_server/utils/watermark.py)."""
    import torch

    def green_share(watermark: bool) -> float:
        wanted = {"max_new_tokens": 200, "do_sample": True, "seed": 3, "watermark": watermark, "details": True}
        found = generate(server, "hello", **wanted, decoder_input_details=True)["details"]
        ids = [token["id"] for token in [*found["prefill"], *found["tokens"]]]
        hits = [
            token_id in torch.randperm(320, generator=torch.Generator().manual_seed(15485863 * before))[:160].tolist()
            for before, token_id in itertools.pairwise(ids[4:])
        ]
        return sum(hits) / len(hits)

    # The tiny model is nearly uniform: half of its tokens are green by chance, exp(2)/(1+exp(2)) with the watermark.
    assert green_share(watermark=False) < 0.65
    assert green_share(watermark=True) > 0.75


def test_more_new_tokens_than_there_is_room_for_are_cut(server: Server) -> None:
    """TGI counts 1024 at most; this model has a context of 512, so what counts must fit."""
    answer = server.request("POST", "/generate", {"inputs": "x" * 505, "parameters": {"max_new_tokens": 7}})
    assert answer.headers["x-generated-tokens"] in {str(n) for n in range(1, 8)}


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "json", "value": {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}},
        {"type": "json_object", "value": '{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}'},
        {"type": "json_schema", "value": {"name": "n", "schema": {"properties": {"a": {"const": 1}},
                                                                  "type": "object", "required": ["a"]}}},
        {"type": "regex", "value": r'\{"a":1\}'},
    ],
)  # fmt: skip
def test_grammars(server: Server, grammar: Any) -> None:
    text = generate(server, grammar=grammar, max_new_tokens=40)["generated_text"]
    assert re.fullmatch(r'\{\s*"a"\s*:\s*1\s*.*', text)


def test_a_schema_that_names_properties_means_an_object_of_these(server: Server) -> None:
    """TGI's own example has no `type`, and JSON Schema would let anything in besides."""
    schema = {"properties": {"a": {"const": 1}, "b": {"enum": [True]}}, "required": ["a"]}
    for value in (schema, json.dumps(schema)):
        for seed in range(4):
            wanted = {"grammar": {"type": "json", "value": value}, "do_sample": True, "seed": seed}
            text = generate(server, **wanted, max_new_tokens=200)["generated_text"]
            assert json.loads(text) in ({"a": 1}, {"a": 1, "b": True})


@pytest.mark.parametrize("route", ["/generate", "/", "/predict", "/invocations"])
def test_the_headers_of_a_whole_answer(server: Server, route: str) -> None:
    answer = server.request("POST", route, {"inputs": "héllo", "parameters": says("ab")})
    headers = {name.lower(): value for name, value in answer.headers.items()}
    assert headers["content-length"] == str(len(answer.body))
    assert headers["x-compute-type"] == "cpu"
    assert headers["x-compute-characters"] == "5"
    assert headers["x-prompt-tokens"] == "6"
    assert headers["x-generated-tokens"] == "2"
    assert re.fullmatch(r"\d+\.\d+", headers["x-compute-time"])
    assert all(headers[f"x-{name}"].isdecimal() for name in MEASURED)


MEASURED = ("total-time", "validation-time", "queue-time", "inference-time", "time-per-token")


def test_the_headers_of_openais_answers(server: Server) -> None:
    """A chat's characters are those of its rendered prompt; completions add their prompts up and have no
    x-compute-time."""
    chat = {"messages": [{"role": "user", "content": "hé"}], "max_tokens": 2}
    prompt = server.request("POST", "/chat_tokenize", chat).json
    answers = {
        "/v1/chat/completions": (chat, len(prompt["templated_text"]), len(prompt["tokenize_response"]), 2),
        "/invocations": (chat, len(prompt["templated_text"]), len(prompt["tokenize_response"]), 2),
        "/v1/completions": ({"prompt": ["hé", "xyz"], "max_tokens": 3, "ignore_eos": True}, 5, 6, 6),
    }
    for route, (body, num_chars, prompt_tokens, most) in answers.items():
        answer = server.request("POST", route, body)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        assert headers["x-compute-type"] == "cpu"
        assert headers["x-compute-characters"] == str(num_chars)
        assert headers["x-prompt-tokens"] == str(prompt_tokens)
        assert int(headers["x-generated-tokens"]) == answer.json["usage"]["completion_tokens"] <= most
        assert ("x-compute-time" in headers) == (route != "/v1/completions")
        assert all(headers[f"x-{name}"].isdecimal() for name in MEASURED)
        streamed = {name.lower() for name in server.request("POST", route, body | {"stream": True}).headers}
        assert {"x-compute-type", "x-compute-characters", "x-accel-buffering"} <= streamed
        assert not {"x-compute-time", "x-prompt-tokens", "x-total-time"} & streamed


def test_a_stream_key_is_ignored_on_generate(server: Server) -> None:
    body = {"inputs": "x", "parameters": says("ab"), "stream": True}
    assert server.request("POST", "/generate", body).json == {"generated_text": "ab"}
    assert server.request("POST", "/generate", body | {"stream": "no boolean"}).status == 200


INFO = {
    *("model_id", "model_sha", "model_pipeline_tag", "max_concurrent_requests", "max_best_of", "max_stop_sequences"),
    *("max_input_tokens", "max_total_tokens", "validation_workers", "max_client_batch_size", "router", "version"),
    *("sha", "docker_label"),
}
# TGI 2 had them, and clients read them.
OLDER_INFO = {"model_dtype", "model_device_type", "max_batch_total_tokens", "quantize"}


def test_info(server: Server) -> None:
    info = server.request("GET", "/info").json
    assert info["router"] == "text-generation-router"
    assert (info["max_input_tokens"], info["max_total_tokens"]) == (511, 512)
    limits = ("max_concurrent_requests", "max_best_of", "max_stop_sequences", "max_client_batch_size")
    assert [info[name] for name in limits] == [128, 2, 4, 128]
    ours = {"server_version", "engine_threads", "kv_cache_dtype", "speculate", "custom_code", "custom_code_ignored"}
    ours |= {"adapters", "max_adapters"}
    assert set(info) == INFO | OLDER_INFO | ours
    assert info["engine_threads"] >= 1
    assert info["speculate"] == 0
    assert info["custom_code_ignored"] == []
    assert (info["model_sha"], info["sha"], info["docker_label"]) == (None, None, None)
    assert info["model_pipeline_tag"] == "text-generation", "so the full text is returned where TGI's default asks it"


def test_clients_that_compare_versions_find_tgi_3(server: Server) -> None:
    """llama-index calls functions from 2.0.1 on; PEP 440 decides."""
    info = server.request("GET", "/info").json
    found = Version(info["version"])
    assert found.release == (3, 3, 7)
    assert found >= Version("3.3.7") > Version("2.0.1")
    assert not found.is_prerelease
    assert info["version"] == f"3.3.7+tgi-heir.{info['server_version']}"
    assert info["server_version"] == VERSION
