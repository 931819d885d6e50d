"""docs/api.md: every example is sent as it stands there, and every route has one."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.server import Server

# They change the server; docs/adapters.md shows them.
CHANGES = {("POST", path) for path in ("/adapters", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")}
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "api.md"


@dataclass(frozen=True)
class Example:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes | None
    answer: str


def read_example(command: str, answer: str) -> Example:
    """A curl command line as a request."""
    words = iter(shlex.split(command.replace("\\\n", " "))[1:])
    method, url, body = None, "", None
    headers: dict[str, str] = {}
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-d":
            body = next(words).encode()
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word != "-N":
            url = word
    return Example(method or ("GET" if body is None else "POST"), urlsplit(url).path, headers, body, answer)


def examples() -> list[Example]:
    blocks = re.findall(r"```(\w*)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    found = []
    for (kind, text), (next_kind, next_text) in zip(blocks, [*blocks[1:], ("sh", "")], strict=True):
        if kind == "sh":
            found.append(read_example(text, "" if next_kind == "sh" else next_text))
    return found


def holds(documented: Any, found: Any) -> None:
    """Each key that is documented is there, with a value of the same JSON type."""
    assert type(documented) is type(found), (documented, found)
    if isinstance(documented, dict):
        for key, value in documented.items():
            holds(value, found[key])
    elif isinstance(documented, list) and documented:
        holds(documented[0], found[0])


@pytest.mark.parametrize("example", examples(), ids=lambda example: f"{example.method} {example.path}")
def test_example(tiny_server: Server, example: Example) -> None:
    headers = {name.replace("-", "_"): value for name, value in example.headers.items()}
    answer = tiny_server.request(example.method, example.path, example.body, **headers)
    assert answer.status == 200, answer.body
    if example.answer.startswith("data: "):
        first = answer.body.partition(b"\n\n")[0].removeprefix(b"data: ")
        holds(json.loads(example.answer.removeprefix("data: ")), json.loads(first))
    elif example.answer:
        holds(json.loads(example.answer), answer.json)


def test_every_route_has_an_example(tiny_server: Server) -> None:
    paths = tiny_server.request("GET", "/api-doc/openapi.json").json["paths"]
    routes = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    shown = {(example.method, example.path) for example in examples()}
    assert {route for route in routes if "{" not in route[1]} | {("GET", "/docs")} == shown | CHANGES
    titles = re.findall(r"^### (.*)$", DOCUMENT.read_text(), re.MULTILINE)
    assert {f"{method} {path}" for method, path in shown} == set(titles)
