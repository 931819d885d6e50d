"""POST /v1/systemone: the questions of a decision in TypeSafe's words, and its errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.openai.scripted import ScriptedServer
from tests.support.server import Server

STATE = {"subject": "Duplicate charge", "message": "I was charged twice."}
NOUL = {"type": "noul", "instructions": "Is this about billing?"}
CHOICE = {"type": "choice", "criteria": {"calm": None, "angry": "An upset message"}}
SCORE = {"type": "score", "instructions": "How urgent?", "criteria": ["Can wait", {"due": "today"}]}


def answers(server: Server, state: Any = STATE, **questions: Any) -> Any:
    answer = server.request("POST", "/v1/systemone", {"model": "jev-latest", "state": state, "questions": questions})
    assert answer.status == 200, answer.body
    return answer.json


def test_what_the_answers_hold(tiny_server: Server) -> None:
    found = answers(tiny_server, a=NOUL, b=CHOICE, c=SCORE)
    assert list(found) == ["model", "answers", "usage"]
    assert found["model"] == "jev-latest"
    noul, choice, score = (found["answers"][name] for name in "abc")
    assert noul.keys() == {"type", "noul"}
    assert 0 < noul["noul"] < 1
    shares = choice["probabilities"]
    assert choice == {
        "type": "choice",
        "choice": max(shares, key=shares.__getitem__),
        "confidence": pytest.approx(2 * max(shares.values()) - 1),
        "probabilities": {"calm": pytest.approx(1 - shares["angry"]), "angry": shares["angry"]},
    }
    assert score == {
        "type": "score",
        "score": pytest.approx(score["probabilities"]["1"]),
        "confidence": score["confidence"],
        "legend": {"0": "Can wait", "1": {"due": "today"}},
        "probabilities": score["probabilities"],
    }
    assert found["usage"].keys() == {"input_tokens", "output_tokens"}


def test_it_answers_as_decisions_does(tiny_server: Server) -> None:
    """The same question in OpenAI's words has the same probabilities."""
    found = answers(tiny_server, "some text", a=NOUL, b=CHOICE | {"instructions": "Which?"})["answers"]
    choices = [{"value": "calm"}, {"value": "angry", "description": "An upset message"}]
    body = {
        "input": "some text",
        "questions": [
            {"type": "predicate", "instructions": NOUL["instructions"]},
            {"type": "choice", "instructions": "Which?", "choices": choices},
        ],
    }
    predicate, choice = tiny_server.request("POST", "/v1/decisions", body).json["answers"]
    assert predicate["probability"] == found["a"]["noul"]
    assert {each["value"]: each["probability"] for each in choice["probabilities"]} == found["b"]["probabilities"]
    assert choice["confidence"] == found["b"]["confidence"]


def test_one_option_is_sure(tiny_server: Server) -> None:
    found = answers(
        tiny_server, a={"type": "choice", "criteria": {"only": None}}, b={"type": "score", "criteria": ["x"]}
    )
    assert found["answers"]["a"] == {
        "type": "choice", "choice": "only", "confidence": 1.0, "probabilities": {"only": 1.0},
    }  # fmt: skip
    assert (found["answers"]["b"]["score"], found["answers"]["b"]["confidence"]) == (0.0, 1.0)
    assert found["usage"] == {"input_tokens": 0, "output_tokens": 0}, "nothing had to be computed"


def test_the_state_and_criteria_as_the_model_reads_them(server_for: Callable[[str], ScriptedServer]) -> None:
    server = server_for("smollm2")
    server.engine.requests.clear()
    criteria = {"true": {"a": "é"}, "false": ["no"]}
    answers(server, a={"type": "noul", "criteria": criteria}, b=NOUL, c=CHOICE, d=SCORE)
    prompts = [server.engine.text(each.prompt_token_ids) for each in server.engine.requests]
    state = 'user\n{"subject":"Duplicate charge","message":"I was charged twice."}\n\n'
    assert f'{state}Is it true?\nYes: {{"a":"é"}}\nNo: ["no"]\nAnswer with' in prompts[0]
    told = "\n".join(prompts)
    assert f"{state}Is this true? Is this about billing?\nAnswer with" in told
    assert f"{state}Which option fits best?\nA: calm\nB: angry - An upset message\nAnswer with" in told
    assert f'{state}Question: How urgent?\n0: Can wait\n1: {{"due":"today"}}\nAnswer with' in told


@pytest.mark.parametrize(
    ("fields", "loc", "message"),
    [
        ({"state": None}, ["state"], "a string, an object or an array"),
        ({"questions": {}}, ["questions"], "1 to 400 questions"),
        (
            {"questions": {"q": {"type": "box", "instructions": "x"}}},
            ["questions", "q", "type"],
            "one of noul, choice, score",
        ),
        (
            {"questions": {"q": NOUL | {"criteria": {"yes": "x"}}}},
            ["questions", "q", "criteria", "yes"],
            "unknown field",
        ),
        ({"questions": {"q": {"type": "choice", "criteria": {}}}}, ["questions", "q", "criteria"], "length >= 1"),
        (
            {"questions": {"q": {"type": "score", "criteria": ["x"] * 11}}},
            ["questions", "q", "criteria"],
            "length <= 10",
        ),
        ({"questions": {"q": {"type": "score", "criteria": [None]}}}, ["questions", "q", "criteria", 0], "a string"),
        ({"questions": {"a.b[0]": {"type": "box"}}}, ["questions", "a.b[0]", "type"], "one of noul"),
        ({"questions": {"...": {"type": "box"}}}, ["questions", "...", "type"], "one of noul"),
        (
            {"questions": {"q": {"type": "choice", "criteria": {"[1].x": 5}}}},
            ["questions", "q", "criteria", "[1].x"],
            "a string",
        ),
        ({"questions": {"q.": NOUL | {"a.b": 1}}}, ["questions", "q.", "a.b"], "unknown field"),
        ({"x.y[0]": 1}, ["x.y[0]"], "unknown field"),
        ({"state": "x" * 600}, ["state"], "`state` together with a question must have at most"),
        ({"stream": True}, ["stream"], "the answers come at once"),
        ({"temperature": 0.5}, ["temperature"], "the model's own"),
        ({"assets": {"a": {"format": "png"}}}, ["assets"], "reads text only"),
        ({"input": "x"}, ["input"], "send `state`"),
    ],
)
def test_a_refusal_says_where(tiny_server: Server, fields: Any, loc: list[Any], message: str) -> None:
    answer = tiny_server.request("POST", "/v1/systemone", {"state": STATE, "questions": {"q": NOUL}} | fields)
    assert answer.status == 422, answer.body
    (fault,) = answer.json["detail"]
    assert message in fault["msg"]
    kind = "context_length_exceeded" if "together" in message else "invalid_value"
    assert (fault["loc"], fault["type"]) == (["body", *loc], kind)


def test_other_errors_have_a_message(tiny_server: Server) -> None:
    broken = tiny_server.request("POST", "/v1/systemone", b"{")
    assert broken.status == 422
    assert broken.json["detail"][0]["type"] == "invalid_json"
    absent = tiny_server.request("POST", "/v1/systemone/x", {})
    assert absent.status == 404
    assert absent.json["detail"]["error_type"] == "not_found_error"
