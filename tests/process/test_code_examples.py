"""The examples of docs/bring-your-own-code.md, run by the server as the page says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sagemaker_deploy.request.user_code import read_code
from tests.conftest import PATIENT
from tests.support.server import ROOT, Server

EXAMPLES = ROOT / "examples"
SMALL = {"TRUST_CUSTOM_CODE": "true", "WEB_WORKERS": "1"}
Start = Callable[[Path], Server]


@pytest.fixture
def start(tmp_path: Path, kept: Path) -> Iterator[Start]:
    servers: list[Server] = []

    def make(model: Path) -> Server:
        servers.append(Server(tmp_path / "log", PATIENT | SMALL | {"HF_MODEL_ID": str(model), "CACHE_DIR": str(kept)}))
        servers[-1].wait_ready()
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def test_retrieval_before_each_prompt(start: Start, model: Path) -> None:
    shutil.copytree(EXAMPLES / "retrieval", model / "code")
    server = start(model)
    questions = ["How long is the warranty of a kettle?", "When is the shop in Lyon open?"]
    with ThreadPoolExecutor(8) as pool:
        bodies = [{"question": question, "max_tokens": 4} for question in questions * 4]
        answers = list(pool.map(lambda body: server.request("POST", "/invocations", body), bodies))
    assert {answer.status for answer in answers} == {200}
    assert [answer.json["passages"][0].split()[1] for answer in answers] == ["warranty", "shop"] * 4
    # Greedy, so who shares the batch changes nothing.
    assert len({answer.json["answer"] for answer in answers[::2]}) == 1
    assert all(answer.json["usage"]["completion_tokens"] <= 4 for answer in answers)
    refused = server.request("POST", "/invocations", {"question": ""})
    assert (refused.status, refused.json["error"]) == (400, "the body needs a question, a string")
    # The other routes are the model's own.
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    assert server.request("POST", "/v1/chat/completions", chat).status == 200
    assert server.stop() == 0


def test_a_model_of_ones_own_in_batches(start: Start) -> None:
    server = start(EXAMPLES / "own_model")
    with ThreadPoolExecutor(16) as pool:
        bodies = [{"inputs": text} for text in ("thanks, great", "the worst: broken") * 16]
        answers = list(pool.map(lambda body: server.request("POST", "/invocations", body), bodies))
    assert [answer.json["friendly"] for answer in answers] == [0.9707, 0.011] * 16
    assert all(1 <= answer.json["batch"] <= 64 for answer in answers)
    refused = server.request("POST", "/invocations", {"inputs": 1})
    assert (refused.status, refused.json["error"]) == (400, "inputs must be a text")
    chat = server.request("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})
    assert (chat.status, chat.json["error"]["code"]) == (404, "no_engine")
    assert server.stop() == 0


def test_a_handler_that_streams(start: Start, model: Path) -> None:
    shutil.copy(EXAMPLES / "streaming_handler" / "handler.py", model)
    server = start(model)
    body = {"inputs": "Tell me a story.", "parameters": {"max_new_tokens": 24}}
    whole = server.request("POST", "/", body)
    (found,) = whole.json
    assert found["sentences"]
    streamed = server.request("POST", "/predict", body | {"stream": True}, Accept="application/jsonlines")
    assert streamed.headers["Content-Type"] == "application/jsonlines"
    assert [json.loads(line)["sentence"] for line in streamed.body.splitlines()] == found["sentences"]
    assert server.request("POST", "/invocations", body).json == whole.json
    paths = server.request("GET", "/api-doc/openapi.json").json["paths"]
    described = {path for path, methods in paths.items() if "default" in methods.get("post", {}).get("responses", {})}
    assert described == {"/", "/predict", "/invocations"}
    assert "default" not in paths["/"].get("get", {}).get("responses", {})
    events = server.request("POST", "/", body | {"stream": True})
    assert events.headers["Content-Type"].startswith("text/event-stream")
    parts = events.body.decode().removesuffix("\n\n").split("\n\n")
    assert [json.loads(part.removeprefix("data: "))["sentence"] for part in parts] == found["sentences"]
    assert server.stop() == 0


@pytest.mark.parametrize("place", ["retrieval", "own_model/code", "streaming_handler"])
def test_the_deploy_helper_takes_them_as_they_are(place: str) -> None:
    code = read_code(EXAMPLES / place)
    assert not list(code.warnings())
    assert code.owns_model == (place == "own_model/code")
