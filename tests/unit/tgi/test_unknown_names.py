"""TGI's routes ignore names that TGI does not know, and log each once with the name that may be meant."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest
from flask import Flask, g, request

from container.api import ignored_fields
from container.api.tgi.request import unknown_names
from container.api.tgi.request.generate_request import parse_compat_generate, parse_generate
from container.api.tgi.request.parameters import GenerateParameters
from container.api.tgi.request.unknown_names import note_unknown
from container.monitoring.request_record import RequestRecord


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(ignored_fields, "_logged", set())
    caplog.set_level(logging.INFO, "container.api.ignored_fields")
    return caplog


WHY = "this route does not read it, as in TGI"


@pytest.mark.parametrize("parse", [parse_generate, parse_compat_generate])
@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ({"stream": False, "parameters": {"max_new_tokens": 5, "stop": ["a"]}}, []),
        (
            {"parameters": {"max_new_token": 5}},
            [f"`parameters.max_new_token` is ignored: {WHY}. Did you mean `max_new_tokens`?"],
        ),
        ({"parameters": {"topP": 0.5}}, [f"`parameters.topP` is ignored: {WHY}. Did you mean `top_p`?"]),
        ({"paramters": {}}, [f"`paramters` is ignored: {WHY}. Did you mean `parameters`?"]),
        ({"options": {"use_cache": True}}, [f"`options` is ignored: {WHY}"]),
        (
            {"parameters": {"grammar": {"type": "regex", "value": "a", "flag": 1}}},
            [f"`parameters.grammar.flag` is ignored: {WHY}"],
        ),
    ],
)
def test_what_is_ignored_is_logged_once(log: Any, parse: Any, body: dict[str, Any], lines: list[str]) -> None:
    for _ in range(2):
        assert parse({"inputs": "x", **body}).inputs == "x"
    assert [record.getMessage() for record in log.records] == lines


def test_the_line_names_the_request(log: Any) -> None:
    with Flask(__name__).test_request_context("/generate", method="POST", headers={"X-Request-Id": "outer"}):
        g.record = RequestRecord(request, dialect="tgi", generates=True)
        parse_generate({"inputs": "x", "paramters": {}})
        assert log.records[0].fields == {
            "field": "paramters",
            "request_id": g.record.id,
            "client_request_id": "outer",
        }


@pytest.mark.parametrize("name", [field.name for field in msgspec.structs.fields(GenerateParameters)])
def test_a_slip_of_each_parameter_is_found(log: Any, name: str) -> None:
    note_unknown({name[:2] + "z" + name[2:]: 1}, GenerateParameters)
    assert f"Did you mean `{name}`" in log.records[0].getMessage()


def test_few_of_many_names_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison takes a part of a millisecond, in which the worker does nothing else."""
    compared: list[str] = []

    def counting(name: str, _known: object) -> str:
        compared.append(name)
        return ""

    monkeypatch.setattr(unknown_names, "did_you_mean", counting)
    note_unknown({f"max_new_tokenz{i}": 1 for i in range(10_000)}, GenerateParameters)
    assert len(compared) == 20
