"""/v1/completions: forms of the prompt, choices, echo, OpenAI's parallel lists of log-probabilities, refusals."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import Completion

from tests.contract.openai.scripted import ScriptedServer

PATH = "/v1/completions"


def complete(server: ScriptedServer, **fields: Any) -> Any:
    answer = server.request("POST", PATH, fields)
    assert answer.status == 200, answer.body
    if not fields.get("echo"):  # the first token of a prompt has null, which the API sends and the types leave out
        Completion.model_validate(answer.json, strict=True)
    return answer.json


def ids(server: ScriptedServer, text: str) -> list[int]:
    return server.engine.token_ids(text)


def test_every_form_of_prompt(qwen: ScriptedServer) -> None:
    qwen.engine.says("xyz")
    a, b = ids(qwen, "ab"), ids(qwen, "c")
    for prompt, sent in [("ab", [a]), (["ab", "c"], [a, b]), (a, [a]), ([a, b], [a, b])]:
        qwen.engine.says("xyz")
        found = complete(qwen, prompt=prompt)
        assert [request.prompt_token_ids for request in qwen.engine.requests] == sent
        assert [(c["index"], c["text"], c["finish_reason"]) for c in found["choices"]] == [
            (i, "xyz", "stop") for i in range(len(sent))
        ]
        assert found["usage"]["prompt_tokens"] == sum(map(len, sent))
        assert found["usage"]["completion_tokens"] == 4 * len(sent)


def test_sixteen_tokens_by_default(qwen: ScriptedServer) -> None:
    qwen.engine.says("x" * 99)
    choice = complete(qwen, prompt="a")["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("x" * 16, "length")


def test_choices_of_several_prompts_stand_in_order(qwen: ScriptedServer) -> None:
    qwen.engine.script = lambda request: f"{qwen.engine.text(request.prompt_token_ids)}!"
    found = complete(qwen, prompt=["a", "b"], n=2, seed=5)
    assert [choice["text"] for choice in found["choices"]] == ["a!", "a!", "b!", "b!"]
    assert found["usage"]["prompt_tokens"] == 2
    seeds = [request.sampling.seed for request in qwen.engine.requests]
    assert seeds.count(5) == 2
    assert len(set(seeds)) == 2


def test_streamed_choices_interleave_and_end_once(qwen: ScriptedServer) -> None:
    qwen.engine.script = lambda request: qwen.engine.text(request.prompt_token_ids) * 15
    chunks = qwen.chunks(path=PATH, prompt=["a", "b"], n=2, stream_options={"include_usage": True})
    *body, last = chunks
    texts = ["", "", "", ""]
    for chunk in body:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
    assert texts == ["a" * 15, "a" * 15, "b" * 15, "b" * 15]
    order = [chunk["choices"][0]["index"] for chunk in body]
    assert order != sorted(order)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 64


def test_best_of_keeps_the_likeliest(qwen: ScriptedServer) -> None:
    qwen.engine.says("one", "two", "three")
    found = complete(qwen, prompt="a", best_of=3, n=1)
    assert len(found["choices"]) == 1
    assert found["choices"][0]["logprobs"] is None
    assert found["usage"]["completion_tokens"] == len("onetwothree") + 3
    assert {request.sampling.num_logprobs for request in qwen.engine.requests} == {0}


def test_logprobs_are_parallel_lists(qwen: ScriptedServer) -> None:
    qwen.engine.says("né!")
    choice = complete(qwen, prompt="a", logprobs=2)["choices"][0]
    found = choice["logprobs"]
    assert found["tokens"] == ["n", "bytes:\\xc3", "bytes:\\xa9", "!"]
    assert found["token_logprobs"] == [-0.5] * 4
    assert all(len(top) == 2 for top in found["top_logprobs"])
    assert found["text_offset"] == [0, 1, 1, 2]


def test_echo_comes_before_the_text(qwen: ScriptedServer) -> None:
    qwen.engine.says("cd")
    choice = complete(qwen, prompt="ab", echo=True, logprobs=1)["choices"][0]
    assert choice["text"] == "abcd"
    assert choice["logprobs"]["tokens"] == ["a", "b", "c", "d", "<|im_end|>"]
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0, -0.5, -0.5, -0.5]
    assert choice["logprobs"]["top_logprobs"][0] is None
    assert choice["logprobs"]["text_offset"] == [0, 1, 2, 3, 4]
    assert qwen.engine.requests[0].sampling.num_prompt_logprobs == 1
    chunks = qwen.chunks(path=PATH, prompt="ab", echo=True, logprobs=1)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "abcd"
    assert [token for chunk in chunks for token in chunk["choices"][0]["logprobs"]["tokens"]] == [*"abcd", "<|im_end|>"]


def test_echo_alone_scores_a_prompt(qwen: ScriptedServer) -> None:
    """As evaluation harnesses do: no new token, the prompt's log-probabilities."""
    qwen.engine.says("zzz")
    found = complete(qwen, prompt="abc", echo=True, logprobs=1, max_tokens=0)
    (choice,) = found["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("abc", "length")
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0, -2.0]
    assert found["usage"]["completion_tokens"] == 0


def test_a_batch_of_scored_prompts(qwen: ScriptedServer) -> None:
    """As lm_eval sends them: token ids, one token more than is wanted, which it leaves out by its place."""
    prompts = [ids(qwen, "ab" + "c" * number) for number in range(8)]
    qwen.engine.says("")  # the end at once
    found = complete(qwen, prompt=prompts, echo=True, logprobs=1, max_tokens=1, temperature=0, seed=1234)
    for number, (prompt, choice) in enumerate(zip(prompts, found["choices"], strict=True)):
        assert choice["index"] == number
        lists = choice["logprobs"]
        assert lists["token_logprobs"] == [None, *(-float(i) for i in range(1, len(prompt))), -0.5]
        assert lists["tokens"][-1] == "<|im_end|>"
        assert lists["text_offset"][-1] == len(choice["text"]) == len(prompt)
    chunks = qwen.chunks(path=PATH, prompt=prompts[0], echo=True, logprobs=1, max_tokens=1)
    assert [token for chunk in chunks for token in chunk["choices"][0]["logprobs"]["tokens"]] == [
        "a",
        "b",
        "<|im_end|>",
    ]
    # Without the prompt the tokens are those of the text, as ever.
    assert complete(qwen, prompt="ab", logprobs=1, max_tokens=1)["choices"][0]["logprobs"]["tokens"] == []


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({}, "prompt", "missing"),
    ({"prompt": None}, "prompt", "a string"),
    ({"prompt": []}, "prompt", "a string"),
    ({"prompt": ""}, "prompt", "at least one token"),
    ({"prompt": ["a"] * 129}, "prompt", "at most 128 prompts"),
    ({"prompt": ["a" * 90_000] * 2, "echo": True, "logprobs": 1, "max_tokens": 1}, "prompt", "at most 131072 tokens"),
    ({"prompt": ["a" * 90_000] * 2, "prompt_logprobs": 0}, "prompt", "at most 131072 tokens"),
    ({"prompt": [1, "a"]}, "prompt", "a string"),
    ({"prompt": "a", "suffix": "b"}, "suffix", "not supported"),
    ({"prompt": "a", "logprobs": 6}, "logprobs", "from 0 to 5"),
    ({"prompt": "a", "best_of": 1, "n": 2}, "best_of", "from n (2)"),
    ({"prompt": "a", "best_of": 2, "stream": True}, "best_of", "streaming"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens", "at least 1"),
    ({"prompt": "a", "messages": []}, "messages", "belongs to /v1/chat/completions"),
]


@pytest.mark.parametrize(("fields", "param", "words"), REFUSED, ids=lambda value: str(value)[:50])
def test_refusals_name_the_field(qwen: ScriptedServer, fields: dict[str, Any], param: str, words: str) -> None:
    answer = qwen.request("POST", PATH, fields)
    assert answer.status == 400, answer.body
    assert answer.json["error"]["param"] == param
    assert words in answer.json["error"]["message"]
    assert qwen.engine.requests == []


def test_invocations_tells_completions_by_the_prompt(qwen: ScriptedServer) -> None:
    qwen.engine.says("xyz")
    answer = qwen.request("POST", "/invocations", {"prompt": "a"})
    assert (answer.status, answer.json["object"], answer.json["choices"][0]["text"]) == (200, "text_completion", "xyz")
