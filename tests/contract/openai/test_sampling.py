"""How tokens are chosen on /v1, as the engine is told: OpenAI's defaults, the limits, and what other servers added."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.openai.scripted import USER, ScriptedServer

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [USER]},
    "/v1/completions": {"prompt": "hi"},
}
pytestmark = pytest.mark.parametrize("path", BODIES)


def asked(server: ScriptedServer, path: str, **fields: Any) -> Any:
    """The sampling parameters of the one request the engine was sent."""
    server.engine.says("x")
    answer = server.request("POST", path, BODIES[path] | fields)
    assert answer.status == 200, answer.body
    (request,) = server.engine.requests
    return request.sampling


def refused(server: ScriptedServer, path: str, **fields: Any) -> str:
    answer = server.request("POST", path, BODIES[path] | fields)
    assert answer.status == 400, answer.body
    return str(answer.json["error"]["message"])


def test_the_defaults_are_openais(qwen: ScriptedServer, path: str) -> None:
    found = asked(qwen, path)
    assert (found.temperature, found.top_p, found.top_k, found.min_p, found.typical_p) == (1.0, 1.0, 0, 0.0, 1.0)
    assert (found.frequency_penalty, found.presence_penalty, found.repetition_penalty) == (0.0, 0.0, 1.0)
    assert (found.logit_bias, found.stop_token_ids, found.min_tokens, found.ignore_eos) == ({}, (), 0, False)
    assert (found.num_logprobs, found.num_prompt_logprobs, found.grammar, found.watermark) == (None, None, None, None)
    assert not found.length_penalised_frequency, "OpenAI's penalty is that of the count"
    assert not found.warped_logprobs, "OpenAI's log-probabilities are the model's own"


def test_null_is_absent(qwen: ScriptedServer, path: str) -> None:
    absent = asked(qwen, path)
    names = ("temperature", "top_p", "n", "stop", "seed", "max_tokens", "frequency_penalty", "presence_penalty")
    names += ("logit_bias", "logprobs", "stream", "stream_options", "user", "metadata", "service_tier", "model")
    found = asked(qwen, path, **dict.fromkeys(names))
    assert found.seed != absent.seed, "each request draws its own"
    assert (found.temperature, found.max_tokens, found.num_logprobs) == (1.0, absent.max_tokens, None)


@pytest.mark.parametrize("temperature", [0, 0.7, 2, 2.5, 100])
def test_a_temperature_beyond_openais_2_is_taken(qwen: ScriptedServer, path: str, temperature: float) -> None:
    """TGI and vLLM take any; zero is greedy."""
    found = asked(qwen, path, temperature=temperature)
    assert found.temperature == temperature
    assert found.greedy == (temperature == 0)


def test_a_top_p_of_zero_is_greedy(qwen: ScriptedServer, path: str) -> None:
    """OpenAI's minimum: the smallest set that holds any probability is the most likely token."""
    assert asked(qwen, path, top_p=0).greedy
    assert asked(qwen, path, top_p=0, temperature=1.5).greedy
    assert not asked(qwen, path, top_p=0.01).greedy
    assert refused(qwen, path, top_p=-0.1) == "`top_p` must be from 0 to 1. Given: -0.1"


def test_a_temperature_has_a_limit(qwen: ScriptedServer, path: str) -> None:
    assert refused(qwen, path, temperature=100.5) == "`temperature` must be from 0 to 100. Given: 100.5"
    assert refused(qwen, path, temperature=-0.1) == "`temperature` must be from 0 to 100. Given: -0.1"


@pytest.mark.parametrize("field", ["frequency_penalty", "presence_penalty"])
def test_penalties_have_openais_limits(qwen: ScriptedServer, path: str, field: str) -> None:
    for value in (-2, 2):
        assert getattr(asked(qwen, path, **{field: value}), field) == value
    assert refused(qwen, path, **{field: 2.1}) == f"`{field}` must be from -2 to 2. Given: 2.1"


def test_a_seed_is_the_engines(qwen: ScriptedServer, path: str) -> None:
    assert asked(qwen, path, seed=7).seed == 7
    assert asked(qwen, path, seed=-1).seed == 2**64 - 1
    assert "`seed` must be from" in refused(qwen, path, seed=2**63)


def test_the_model_is_echoed_whatever_it_is(qwen: ScriptedServer, path: str) -> None:
    for model in ("tgi", "", "org/other"):
        qwen.engine.says("x")
        body = BODIES[path] | {"model": model}
        assert qwen.request("POST", path, body).json["model"] == model
        assert {chunk["model"] for chunk in qwen.chunks(path=path, **body)} == {model}
    assert qwen.request("POST", path, BODIES[path]).json["model"] == "quick"


def test_obfuscation_is_taken_and_adds_nothing(qwen: ScriptedServer, path: str) -> None:
    qwen.engine.says("x")
    options = {"include_obfuscation": True}
    assert all("obfuscation" not in chunk for chunk in qwen.chunks(path=path, **BODIES[path], stream_options=options))
    assert "unknown field" in refused(qwen, path, stream=True, stream_options={"include": True})


def test_no_limit_of_tokens_is_what_fits(qwen: ScriptedServer, path: str) -> None:
    """100,000 is this model's context."""
    found = asked(qwen, path)
    room = 100_000 - len(qwen.engine.requests[0].prompt_token_ids)
    assert found.max_tokens == (16 if path == "/v1/completions" else room)
    words = refused(qwen, path, max_tokens=100_000)
    assert words.startswith("`inputs` tokens + `max_new_tokens` must be <= 100000. Given: ")
