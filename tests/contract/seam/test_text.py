"""Whatever tokens an engine sends and however it cuts them: whole and streamed answers are the same text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.seam.protocol import FinishReason
from tests.contract.seam.web import CHAT, PROMPT, TEXT, WebServer, events
from tests.fakes.engine import FakeEngine

FAST = settings(max_examples=60)
# Texts of one to four bytes a character and joiners between them, bytes that are no text, tokens of several letters.
TEXTS = st.text(st.sampled_from('aß€😀‍👩é́ \n"\\<STOP!l o'), max_size=12).map(lambda text: text.encode())
BYTES = st.binary(max_size=6)
MERGED = st.sampled_from(["llo ", "STOP", "STOP!", "OP", "o "])


@st.composite
def steps_of_tokens(draw: st.DrawFn) -> list[list[tuple[str, Any]]]:
    """Steps of one or more tokens, each a byte or a merged word."""
    pieces = draw(st.lists(TEXTS | BYTES | MERGED, max_size=5))
    tokens: list[tuple[str, Any]] = []
    for piece in pieces:
        tokens += [("word", piece)] if isinstance(piece, str) else [("byte", byte) for byte in piece]
    steps = []
    while tokens:
        size = draw(st.integers(1, 4))
        steps.append(tokens[:size])
        tokens = tokens[size:]
    return steps


def ids_of(engine: FakeEngine, step: list[tuple[str, Any]]) -> list[int]:
    found: list[int] = []
    for kind, value in step:
        word = [engine.tokenizer.token_to_id(value.replace(" ", "Ġ"))] if kind == "word" else []
        found += word or engine.token_ids(bytes([value]))
    return found


def text_of(steps: list[list[tuple[str, Any]]]) -> str:
    raw = b"".join(value.encode() if kind == "word" else bytes([value]) for step in steps for kind, value in step)
    return raw.decode("utf-8", "replace")


def up_to_stop(text: str, stops: list[str], *, keep: bool) -> tuple[str, bool]:
    """What an engine would leave that looks after every character: the first stop that is complete ends the text."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[:end] if keep else text[: end - max(map(len, found))], True
    return text, False


def chat_text(chunks: list[Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def check_order(data: list[str]) -> list[Any]:
    """Role first, one finish reason, [DONE] last."""
    assert data.count("[DONE]") == 1
    assert data[-1] == "[DONE]"
    chunks = [json.loads(each) for each in data[:-1]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert not [chunk for chunk in chunks[1:] if "role" in chunk["choices"][0]["delta"]]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert [reason is not None for reason in reasons] == [False] * (len(reasons) - 1) + [True]
    assert len({chunk["id"] for chunk in chunks}) == 1
    return chunks


STOPS = st.lists(st.sampled_from(["STOP", "STOP!", "OP!", "ll", "l", "€", "😀‍", "o ", "ß€", "TO", "\n"]), max_size=3)


@FAST
@given(steps=steps_of_tokens(), stops=STOPS)
def test_chat(web: WebServer, engine: FakeEngine, steps: Any, stops: list[str]) -> None:
    engine.script = engine.says(*[ids_of(engine, step) for step in steps])
    expected, stopped = up_to_stop(text_of(steps), stops, keep=False)
    body = CHAT | {"stop": stops}
    whole = web.post("/v1/chat/completions", body).json
    assert whole["choices"][0]["message"]["content"] == expected
    assert whole["choices"][0]["finish_reason"] == "stop"
    chunks = check_order(events(web.post("/v1/chat/completions", body | {"stream": True}).body))
    assert chat_text(chunks) == expected
    if not stopped:
        assert whole["usage"]["completion_tokens"] == sum(map(len, steps)) + 1


@FAST
@given(steps=steps_of_tokens(), stops=STOPS)
def test_generate(web: WebServer, engine: FakeEngine, steps: Any, stops: list[str]) -> None:
    engine.script = engine.says(*[ids_of(engine, step) for step in steps])
    expected, stopped = up_to_stop(text_of(steps), stops, keep=True)
    body = {"inputs": "hi", "parameters": {"stop": stops, "details": True}}
    whole = web.post("/generate", body).json
    assert whole["generated_text"] == expected
    assert whole["details"]["finish_reason"] == ("stop_sequence" if stopped else "eos_token")
    found = [json.loads(each) for each in events(web.post("/generate_stream", body).body)]
    assert found[-1]["generated_text"] == expected
    assert [event["generated_text"] for event in found[:-1]] == [None] * (len(found) - 1)
    assert [event["index"] for event in found] == list(range(1, len(found) + 1))
    assert [event["token"] for event in found] == whole["details"]["tokens"]
    shown = "".join(event["token"]["text"] for event in found if not event["token"]["special"])
    assert shown.startswith(expected.rstrip("�"))


@FAST
@given(steps=steps_of_tokens())
def test_completions(web: WebServer, engine: FakeEngine, steps: Any) -> None:
    engine.script = engine.says(*[ids_of(engine, step) for step in steps], finish=FinishReason.LENGTH)
    whole = web.post("/v1/completions", PROMPT).json
    assert whole["choices"][0]["text"] == text_of(steps)
    assert whole["choices"][0]["finish_reason"] == "length"
    data = events(web.post("/v1/completions", PROMPT | {"stream": True}).body)
    assert data.pop() == "[DONE]"
    choices = [choice for each in data for choice in json.loads(each)["choices"]]
    assert "".join(choice["text"] for choice in choices) == text_of(steps)


@pytest.mark.parametrize(
    ("finish", "openai", "tgi"),
    [
        (FinishReason.EOS, "stop", "eos_token"),
        (FinishReason.STOP_TOKEN, "stop", "eos_token"),
        (FinishReason.LENGTH, "length", "length"),
    ],
)
def test_finish_reasons(web: WebServer, engine: FakeEngine, finish: FinishReason, openai: str, tgi: str) -> None:
    engine.script = engine.says("ab", finish=finish)
    whole = web.post("/v1/chat/completions", CHAT).json
    assert whole["choices"][0]["finish_reason"] == openai
    details = {"inputs": "hi", "parameters": {"details": True}}
    if finish is not FinishReason.STOP_TOKEN:
        assert web.post("/generate", details).json["details"]["finish_reason"] == tgi


def test_usage_at_the_end_and_all_along(web: WebServer, engine: FakeEngine) -> None:
    engine.script = engine.says("ab", "c")
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = [json.loads(each) for each in events(web.post("/v1/chat/completions", body).body)[:-1]]
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)
    assert last["choices"] == []
    usage = last["usage"]
    assert usage["completion_tokens"] == 4
    assert usage["prompt_tokens"] == len(engine.requests[-1].prompt_token_ids)
    assert usage["total_tokens"] == usage["prompt_tokens"] + 4
    body["stream_options"] = {"continuous_usage_stats": True, "include_usage": True}
    chunks = [json.loads(each) for each in events(web.post("/v1/chat/completions", body).body)[:-1]]
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (2, 4)
    assert chunks[-1]["choices"] == []


def test_absent_parameters_sample_and_an_empty_object_does_not(web: WebServer, engine: FakeEngine) -> None:
    for body in ({"inputs": "hi"}, TEXT):
        assert web.post("/generate", body).status == 200
    assert [request.sampling.greedy for request in engine.requests] == [False, True]
    assert [request.sampling.warped_logprobs for request in engine.requests] == [True, True]


@pytest.mark.parametrize("model", ["gpt-4o", "", "a/b", "x" * 300])
def test_any_model_is_echoed(web: WebServer, model: str) -> None:
    assert web.post("/v1/chat/completions", CHAT | {"model": model}).json["model"] == model


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("name", ["include_stop_str_in_output", "no_stop_trim"])
def test_a_stop_token_is_kept_if_the_client_says_so(web: WebServer, engine: FakeEngine, path: str, name: str) -> None:
    """vLLM's rule: the text leaves out the token that ends it, unless the request keeps it."""
    engine.script = engine.says("ab", engine.token_ids("x"), finish=FinishReason.STOP_TOKEN)
    body = (CHAT if "chat" in path else PROMPT) | {"stop_token_ids": engine.token_ids("x"), "max_tokens": 9}
    for kept in (False, True):
        answer = web.post(path, body | {name: kept}).json["choices"][0]
        assert (answer["message"]["content"] if "chat" in path else answer["text"]) == ("abx" if kept else "ab")
        chunks = [json.loads(event) for event in events(web.post(path, body | {name: kept, "stream": True}).body)[:-1]]
        choices = [chunk["choices"][0] for chunk in chunks]
        pieces = [choice["delta"].get("content") or "" if "chat" in path else choice["text"] for choice in choices]
        assert "".join(pieces) == ("abx" if kept else "ab")
