"""TGI's routes of the real container. A regex grammar scripts what the tiny random model says: the text, then EOS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Answer, Server

EOS = "<|im_end|>"


@pytest.fixture(scope="session")
def server(tiny_server: Server) -> Server:
    return tiny_server


@pytest.fixture(scope="session")
def strict_server(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With an API key and other limits than the defaults, given as TGI's launcher takes them."""
    environ = {
        "HF_MODEL_ID": str(tiny_llama),
        "API_KEY": "Secret",
        "MAX_BEST_OF": "1",
        "MAX_STOP_SEQUENCES": "1",
        "MAX_INPUT_LENGTH": "8",
        "PAYLOAD_LIMIT": "1000",
        "DISABLE_GRAMMAR_SUPPORT": "true",
        "COMPUTE_TYPE": "1-tiny",
        "CORS_ALLOW_ORIGIN": "https://a.example,https://b.example",
        "CUDA_GRAPHS": "2",
        "WEB_WORKERS": "1",
    }
    server = Server(tmp_path_factory.mktemp("strict") / "log", environ)
    try:
        server.wait_ready()
        yield server
    finally:
        server.kill()


def says(text: str, **parameters: Any) -> dict[str, Any]:
    """Parameters that make the model say `text`, without any other letter, and end."""
    return {"grammar": {"type": "regex", "value": text}} | parameters


def says_a_and_eos(server: Server) -> dict[str, Any]:
    """Parameters that make the model say "a" and then the EOS token, where "b" was possible too."""
    for seed in range(40):
        wanted = says("ab{0,9}", do_sample=True, seed=seed)
        found = server.request("POST", "/generate", {"inputs": "hello", "parameters": wanted | {"details": True}}).json
        if found["details"]["tokens"][1]["special"]:
            return wanted
    raise AssertionError("no seed below 40 draws EOS")


def events(answer: Answer) -> list[Any]:
    """The events of a stream, each checked to be one `data: ` line and a blank line."""
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.body.endswith(b"\n\n")
    frames = answer.body.decode().removesuffix("\n\n").split("\n\n")
    assert all(frame.startswith("data: {") and "\n" not in frame for frame in frames)
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]
