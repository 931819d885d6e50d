"""What TGI refuses: texts and order of router/src/validation.rs (v3.3.7), on every route that generates."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.contract.tgi.conftest import says
from tests.support.server import Answer, Server

SAMPLED = {"do_sample": True}
WARPERS = ("do_sample", "temperature", "top_k", "top_p", "typical_p")

# In the order in which TGI checks: of two faults the first one is reported.
ORDERED: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 3}, "`best_of` must be > 0 and <= 2. Given: 3"),
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ({"temperature": 0.0}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": -1}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"truncate": 512}, "`truncate` must be strictly positive and less than 511. Given: 512"),
    (
        {"max_new_tokens": 600},
        "`inputs` tokens + `max_new_tokens` must be <= 512. Given: 1 `inputs` tokens and 600 `max_new_tokens`",
    ),
    ({"grammar": {"type": "json", "value": 5}}, "grammar is not supported"),
]


def generate(server: Server, route: str = "/generate", inputs: str = "x", **parameters: Any) -> Answer:
    return server.request("POST", route, {"inputs": inputs, "parameters": parameters})


def refused(answer: Answer, sentence: str) -> None:
    assert answer.status == 422
    assert answer.headers["Content-Type"] == "application/json"
    assert not [name for name in answer.headers if name.lower().startswith("x-") and name != "X-Request-Id"]
    assert answer.json == {"error": f"Input validation error: {sentence}", "error_type": "validation"}


@pytest.mark.parametrize(("parameters", "sentence"), ORDERED)
def test_the_words(server: Server, parameters: dict[str, Any], sentence: str) -> None:
    refused(generate(server, **parameters), sentence)


def _pairs() -> list[Any]:
    return [
        pytest.param(later | earlier, sentence, id=f"{'+'.join(earlier)}-before-{'+'.join(later)}")
        for (earlier, sentence), (later, _) in itertools.pairwise(ORDERED)
        if not earlier.keys() & later.keys() and "best_of" not in earlier
    ]


@pytest.mark.parametrize(("parameters", "sentence"), _pairs())
def test_the_order(server: Server, parameters: dict[str, Any], sentence: str) -> None:
    refused(generate(server, **parameters), sentence)


# All the order of 2.3 at once: each fault is reported while every later one is there too.
LADDER: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 3}, ORDERED[0][1]),
    ({"best_of": 2}, ORDERED[1][1]),
    ({"temperature": -1.0}, "`temperature` must be strictly positive"),
    *ORDERED[3:10],
    ({"best_of": 2, "seed": 1, "do_sample": True}, "`seed` must not be set when `best_of` > 1"),
    ({"top_n_tokens": 6, "best_of": 1}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"inputs": ""}, "`inputs` cannot be empty"),
    ({"truncate": 512, "inputs": "x"}, ORDERED[11][1]),
    ({"inputs": "x" * 512, "truncate": None, "max_new_tokens": 1},
     "`inputs` tokens + `max_new_tokens` must be <= 512. Given: 512 `inputs` tokens and 1 `max_new_tokens`"),
    ({"inputs": "x" * 512, "max_new_tokens": None}, "`inputs` must have less than 511 tokens. Given: 512"),
    ({"grammar": {"type": "json", "value": 5}, "inputs": "x"}, "grammar is not supported"),
]  # fmt: skip


@pytest.mark.parametrize("rung", range(len(LADDER)))
def test_the_whole_order(server: Server, rung: int) -> None:
    given: dict[str, Any] = {}
    for fault, _ in reversed(LADDER[rung:]):
        given |= fault
    if LADDER[rung][0] == {"best_of": 2}:  # what asks for sampling would take this fault away
        given = {name: value for name, value in given.items() if name not in WARPERS}
    inputs = given.pop("inputs")
    refused(generate(server, inputs=inputs, **given), LADDER[rung][1])


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"best_of": 2, "seed": 1} | SAMPLED, "`seed` must not be set when `best_of` > 1"),
        ({"grammar": {"type": "json", "value": "{"}}, "grammar is not valid: "),
        ({"grammar": {"type": "json", "value": {"type": "nonsense"}}}, "grammar is not valid: "),
        ({"grammar": {"type": "json", "value": "[]"}}, "grammar is not valid: "),
        ({"grammar": {"type": "regex", "value": "["}}, "grammar is not valid: "),
        ({"frequency_penalty": -2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"top_p": 0.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"typical_p": 1}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"top_k": -3}, "`top_k` must be strictly positive"),
        ({"truncate": 0}, "`truncate` must be strictly positive and less than 511. Given: 0"),
        ({"max_new_tokens": 2000}, "`inputs` tokens + `max_new_tokens` must be <= 512. Given: 1 `inputs` tokens and"
                                   " 1024 `max_new_tokens`"),
        ({"adapter_id": "mine"}, '`adapter_id` must be the name of an adapter that is loaded. Given: "mine"'),
        ({"stop": [""]}, "`stop` must be made of non-empty strings"),
        ({"seed": 2**64}, "`seed` must be < 2^64. Given: 18446744073709551616"),
    ],
)  # fmt: skip
def test_more_words(server: Server, parameters: dict[str, Any], sentence: str) -> None:
    answer = generate(server, **parameters)
    assert answer.status == 422
    assert answer.json["error"].startswith(f"Input validation error: {sentence}")


def test_inputs(server: Server) -> None:
    refused(generate(server, inputs=""), "`inputs` cannot be empty")
    refused(generate(server, inputs="x" * 512), "`inputs` must have less than 511 tokens. Given: 512")
    assert generate(server, inputs="x" * 511).status == 200
    assert generate(server, inputs="x" * 600, truncate=511).status == 200


@pytest.mark.parametrize("route", ["/", "/generate_stream", "/invocations", "/predict"])
def test_every_route_refuses_alike_before_a_stream_starts(server: Server, route: str) -> None:
    body = {"inputs": "x", "parameters": {"top_k": 0}, "stream": True}
    refused(server.request("POST", route, body), "`top_k` must be strictly positive")


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"best_of": 0}, "`best_of` != 1 is not supported when streaming tokens"),
        ({"best_of": 2}, "`best_of` != 1 is not supported when streaming tokens"),
        ({"decoder_input_details": True}, "`decoder_input_details` == true is not supported when streaming tokens"),
    ],
)
@pytest.mark.parametrize("route", ["/generate_stream", "/"])
def test_what_streams_cannot_have(server: Server, route: str, parameters: dict[str, Any], sentence: str) -> None:
    body = {"inputs": "x", "parameters": parameters, "stream": True}
    refused(server.request("POST", route, body), sentence)


def test_limits_come_from_tgis_environment(strict_server: Server) -> None:
    def ask(**parameters: Any) -> Answer:
        body = {"inputs": parameters.pop("inputs", "x"), "parameters": parameters}
        return strict_server.request("POST", "/generate", body, Authorization="Bearer Secret")

    refused(ask(best_of=2, **SAMPLED), "`best_of` != 1 is not allowed for this endpoint")
    refused(ask(stop=["a", "b"]), "`stop` supports up to 1 stop sequences. Given: 2")
    refused(ask(inputs="x" * 9), "`inputs` must have less than 8 tokens. Given: 9")
    refused(ask(truncate=9), "`truncate` must be strictly positive and less than 8. Given: 9")
    refused(ask(**says("a")), "grammar is not supported")
    assert ask(max_new_tokens=1).headers["x-compute-type"] == "1-tiny"
    log = strict_server.log.read_text()
    assert "CUDA_GRAPHS is ignored: " in log
