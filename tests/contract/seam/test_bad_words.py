"""`bad_words` on OpenAI's routes: the engine gets token sequences, or the client a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.seam.web import CHAT, PROMPT, TEXT, WebServer
from tests.fakes.engine import FakeEngine

BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", PROMPT),
    ("/invocations", CHAT),
    ("/invocations", PROMPT),
]
everywhere = pytest.mark.parametrize(("path", "body"), BODIES)


def sent(web: WebServer, path: str, body: dict[str, Any]) -> Any:
    answer = web.post(path, body)
    assert answer.status == 200, answer.body
    return web.engine.requests[-1].sampling.bad_words


@everywhere
def test_words_arrive_as_tokens_with_and_without_a_space(
    web: WebServer, engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    """STOP is one token of this vocabulary, and what begins with a space is the same word."""
    (stop,) = engine.tokenizer.encode("STOP").ids
    (space,) = engine.token_ids(" ")
    a, b = engine.token_ids("ab")
    found = sent(web, path, body | {"bad_words": ["STOP", "ab", " STOP", "STOP"]})
    assert found == ((stop,), (space, stop), (a, b), (space, a, b))


@everywhere
@pytest.mark.parametrize("words", [None, []])
def test_none_are_none(web: WebServer, path: str, body: dict[str, Any], words: Any) -> None:
    assert sent(web, path, body | {"bad_words": words}) == ()


def test_white_space_can_be_banned(web: WebServer, engine: FakeEngine) -> None:
    (newline,), (space,) = engine.token_ids("\n"), engine.token_ids(" ")
    assert sent(web, "/v1/completions", PROMPT | {"bad_words": ["\n"]}) == ((newline,), (space, newline))
    assert sent(web, "/v1/completions", PROMPT | {"bad_words": [" "]}) == ((space,), (space, space))


def test_control_tokens_can_be_banned_by_their_spelling(web: WebServer, engine: FakeEngine) -> None:
    assert sent(web, "/v1/completions", PROMPT | {"bad_words": ["<|im_end|>"]})[0] == (engine.eos_id,)


def test_all_choices_and_prompts_have_them(web: WebServer, engine: FakeEngine) -> None:
    assert web.post("/v1/completions", PROMPT | {"prompt": ["a", "b"], "n": 2, "bad_words": ["x"]}).status == 200
    x, space = *engine.token_ids("x"), *engine.token_ids(" ")
    assert [request.sampling.bad_words for request in engine.requests] == [((x,), (space, x))] * 4


REFUSED: list[tuple[Any, str, str]] = [
    (["a"] * 129, "bad_words", "`bad_words` must be at most 128 strings. Given: 129"),
    (["a", ""], "bad_words", '`bad_words` must be made of non-empty strings. Given: ""'),
    (["a", "b" * 257], "bad_words[1]", "`bad_words[1]` must be at most 256 characters. Given: 257"),
    # A token a byte, and one for the space.
    (["a", "b" * 64], "bad_words[1]", "`bad_words[1]` must be at most 64 tokens. Given: 65"),
    (["é" * 33], "bad_words[0]", "`bad_words[0]` must be at most 64 tokens. Given: 66"),
]


@everywhere
@pytest.mark.parametrize(("words", "param", "sentence"), REFUSED, ids=lambda value: str(value)[:20])
def test_refusals_name_field_limit_and_value(
    web: WebServer, engine: FakeEngine, path: str, body: dict[str, Any], words: Any, param: Any, sentence: str
) -> None:
    answer = web.post(path, body | {"bad_words": words})
    assert answer.status == 400, answer.body
    assert (answer.json["error"]["message"], answer.json["error"]["param"]) == (sentence, param)
    assert engine.requests == []


@pytest.mark.parametrize("words", ["a", [1], {"a": 1}])
def test_only_strings_are_words(web: WebServer, words: Any) -> None:
    answer = web.post("/v1/chat/completions", CHAT | {"bad_words": words})
    assert answer.status == 400
    assert "bad_words" in answer.json["error"]["message"]


def test_the_limits_are_themselves_allowed(web: WebServer) -> None:
    words = [f"{i:03}" + "b" * 60 for i in range(128)]
    found = sent(web, "/v1/completions", PROMPT | {"bad_words": words})
    assert len(found) == 256
    assert max(map(len, found)) == 64


def test_tgis_parameters_have_no_such_field(web: WebServer, engine: FakeEngine) -> None:
    answer = web.post("/generate", TEXT | {"parameters": {"bad_words": ["a"]}})
    assert answer.status == 200, "it is passed over, as by TGI"
    assert [request.sampling.bad_words for request in engine.requests] == [()]
