"""TGI's dialect where only the engine's side of the socket can show it: what it is asked, its places, its failures."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from handler.seam.protocol import ErrorCode, Failed, FinishReason, Rejected, StepOutput, TokenLogprob
from tests.contract.seam.web import TEXT, WebServer
from tests.fakes.engine import CONTEXT, IN_FLIGHT, FakeEngine, output


def asked(web: WebServer, engine: FakeEngine, **parameters: Any) -> Any:
    """The sampling parameters the engine was sent for `parameters`."""
    answer = web.post("/generate", {"inputs": "hi", "parameters": parameters})
    assert answer.status == 200, answer.body
    return engine.requests[-1].sampling


def test_every_parameter_reaches_the_engine(web: WebServer, engine: FakeEngine) -> None:
    given: dict[str, Any] = {
        "temperature": 0.5, "repetition_penalty": 1.2, "frequency_penalty": 0.3, "top_k": 10, "top_p": 0.9,
        "typical_p": 0.8, "max_new_tokens": 20, "watermark": True, "seed": 0, "top_n_tokens": 3,
        "decoder_input_details": True, "grammar": {"type": "regex", "value": "a+"},
    }  # fmt: skip
    found = asked(web, engine, **given)
    assert (found.temperature, found.top_k, found.top_p, found.typical_p) == (0.5, 10, 0.9, 0.8)
    assert (found.repetition_penalty, found.frequency_penalty, found.presence_penalty) == (1.2, 0.3, 0.0)
    assert found.length_penalised_frequency, "TGI divides by the length"
    assert (found.max_tokens, found.seed, found.num_logprobs, found.num_prompt_logprobs) == (20, 0, 3, 0)
    assert found.watermark == (0.5, 2.0)
    assert (found.grammar.kind, found.grammar.source) == ("regex", "a+")
    assert found.warped_logprobs


def test_absent_parameters_have_tgis_defaults(web: WebServer, engine: FakeEngine) -> None:
    found = asked(web, engine)
    assert (found.temperature, found.top_k, found.top_p, found.typical_p, found.min_p) == (0.0, 0, 1.0, 1.0, 0.0)
    assert (found.repetition_penalty, found.frequency_penalty) == (1.0, 0.0)
    assert (found.watermark, found.grammar, found.num_prompt_logprobs) == (None, None, None)
    assert found.max_tokens == CONTEXT - 2
    assert asked(web, engine, do_sample=True).temperature == 1.0


def test_seeds_that_are_not_given_differ(web: WebServer, engine: FakeEngine) -> None:
    assert len({asked(web, engine, do_sample=True).seed for _ in range(4)}) == 4


def test_best_of_takes_a_place_for_each(web: WebServer, engine: FakeEngine) -> None:
    """Its sequences have seeds of their own; the one with the best mean log-probability wins."""
    engine.script = lambda request: [output(request, engine.token_ids("ab"), FinishReason.LENGTH)]
    body = {"inputs": "hi", "parameters": {"best_of": 2, "do_sample": True, "details": True}}
    details = web.post("/generate", body).json["details"]
    first, second = engine.requests
    assert first.sampling.seed != second.sampling.seed
    assert {details["seed"], details["best_of_sequences"][0]["seed"]} == {first.sampling.seed, second.sampling.seed}
    never = threading.Event()
    engine.script = lambda _request: [never]
    streams = [web.open("/generate_stream", TEXT) for _ in range(IN_FLIGHT - 1)]
    web.wait(lambda: len(engine.requests) == IN_FLIGHT + 1)
    assert web.post("/generate", body).status == 429
    for stream in streams:
        stream.close()
    engine.script = engine.says("hello")
    web.wait(lambda: web.post("/generate", body).status == 200)


def test_the_best_has_the_best_mean_logprob(web: WebServer, engine: FakeEngine) -> None:
    texts = iter([("aaaa", -0.5), ("b", -0.9)])

    def play(request: Any) -> Any:
        text, logprob = next(texts)
        ids = engine.token_ids(text)
        scored = [TokenLogprob(logprob, ()) for _ in ids]
        return [StepOutput(request.request_id, ids, scored, None, FinishReason.LENGTH)]

    engine.script = play
    body = {"inputs": "hi", "parameters": {"best_of": 2, "do_sample": True, "details": True}}
    found = web.post("/generate", body).json
    assert found["generated_text"] == "aaaa", "its sum is the lower one"
    assert found["details"]["best_of_sequences"][0]["generated_text"] == "b"


def test_a_full_queue_comes_before_the_parameters_and_after_best_of(web: WebServer, engine: FakeEngine) -> None:
    engine.board["waiting_tokens"] = CONTEXT * 64
    try:
        for path in ("/generate", "/generate_stream", "/", "/invocations"):
            answer = web.post(path, {"inputs": "", "parameters": {"temperature": -1}})
            assert (answer.status, answer.json) == (429, {"error": "Model is overloaded", "error_type": "overloaded"})
        early: list[tuple[str, dict[str, Any], str]] = [
            ("/generate", {"best_of": 3}, "`best_of` must be > 0 and <= 2. Given: 3"),
            ("/generate_stream", {"best_of": 0}, "`best_of` != 1 is not supported when streaming tokens"),
            ("/generate_stream", {"decoder_input_details": True},
             "`decoder_input_details` == true is not supported when streaming tokens"),
        ]  # fmt: skip
        for path, parameters, sentence in early:
            answer = web.post(path, {"inputs": "x", "parameters": parameters})
            assert (answer.status, answer.json["error"]) == (422, f"Input validation error: {sentence}")
    finally:
        engine.board["waiting_tokens"] = 0


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/", "/invocations"])
def test_a_failure_of_the_engine_is_a_424(web: WebServer, engine: FakeEngine, path: str) -> None:
    engine.script = lambda request: [Failed(request.request_id, ErrorCode.NUMERICS, "not a number")]
    answer = web.post(path, TEXT)
    assert answer.status == 424
    assert answer.json == {"error": "Request failed during generation: not a number", "error_type": "generation"}
    engine.script = lambda request: [Rejected(request.request_id, ErrorCode.OVERLOADED, "Model is overloaded")]
    answer = web.post(path, TEXT)
    assert (answer.status, answer.json) == (429, {"error": "Model is overloaded", "error_type": "overloaded"})


def test_an_end_without_a_token_is_incomplete(web: WebServer, engine: FakeEngine) -> None:
    """As a stream, which has an event for each token, it has none to end with."""
    engine.script = lambda request: [output(request, [], FinishReason.LENGTH)]
    answer = web.post("/generate_stream", TEXT)
    assert answer.status == 500
    assert answer.json == {"error": "Incomplete generation", "error_type": "incomplete_generation"}


def test_vertex_samples_and_reads_two_parameters(web: WebServer, engine: FakeEngine) -> None:
    given = {"max_new_tokens": 5, "seed": 3, "temperature": 0.1, "top_k": 1, "watermark": True, "do_sample": False}
    web.post("/vertex", {"instances": [{"inputs": "hi", "parameters": given}]})
    found = engine.requests[-1].sampling
    assert (found.temperature, found.top_k, found.watermark, found.max_tokens, found.seed) == (1.0, 0, None, 5, 3)


def test_a_silent_stream_is_kept_alive(web: WebServer, engine: FakeEngine) -> None:
    """A comment, which is no event, after 15 s; TGI's clients skip what does not begin with `data:`."""
    wakes = threading.Event()
    engine.script = lambda request: [output(request, engine.token_ids("a")), wakes, output(request, [engine.eos_id],
                                                                                         FinishReason.EOS)]  # fmt: skip
    stream = web.open("/generate_stream", TEXT)
    assert stream.event()
    assert [stream.response.readline() for _ in range(3)] == [b"\n", b":\n", b"\n"]
    wakes.set()
    assert [json.loads(event)["generated_text"] for event in stream.rest()] == ["a"]
