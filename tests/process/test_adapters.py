"""A whole server with adapters that peft made: chosen, deleted, there again after a death, drained; two engines."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Answer, Server

MakeServer = Callable[..., Server]
PROMPT = "hello there, which adapter is this?"
NUM_TOKENS = 10
NUM_LONG = 120
HEADER = "X-Amzn-SageMaker-Adapter-Identifier"
Said = dict[str | None, list[int]]


@pytest.fixture(scope="module")
def files(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters by peft."""
    from transformers import AutoModelForCausalLM

    from tests.support import adapters

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    at = tmp_path_factory.mktemp("adapters")
    return {
        name: adapters.write(model, at / name, seed, noise=0.05, target_modules="all-linear")
        for seed, name in enumerate("abc")
    }


@pytest.fixture(scope="module")
def said(tiny_llama: Path, files: dict[str, Path]) -> Said:
    """The greedy tokens of transformers, and of peft with each adapter."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tests.support import adapters

    base = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    prompt = AutoTokenizer.from_pretrained(tiny_llama)(PROMPT, return_tensors="pt")["input_ids"]

    def greedy(model: Any) -> list[int]:
        ids = prompt
        with torch.no_grad():
            for _ in range(NUM_TOKENS):
                chosen = model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)
                ids = torch.cat([ids, chosen], 1)
        return [int(each) for each in ids[0, prompt.shape[1] :]]

    found: Said = {None: greedy(base)}
    for name, path in files.items():
        found[name] = greedy(adapters.peft_model(base, path))
    assert len({tuple(each) for each in found.values()}) == 4, "adapters that can be told apart"
    return found


@pytest.fixture
def make_server(tmp_path: Path, tiny_llama: Path, kept: Path) -> Iterator[MakeServer]:
    servers: list[Server] = []

    def make(**environ: str) -> Server:
        values = {"HF_MODEL_ID": str(tiny_llama), "CACHE_DIR": str(kept), "DTYPE": "float32"} | environ
        values = {"WEB_WORKERS": "1"} | values
        servers.append(Server(tmp_path / f"log{len(servers)}", values))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


def generate(server: Server, body: dict[str, Any] | None = None, **headers: str) -> Answer:
    parameters = {"max_new_tokens": NUM_TOKENS, "details": True}
    given = dict(body or {})
    parameters |= given.pop("parameters", {})
    return server.request("POST", "/generate", {"inputs": PROMPT, "parameters": parameters} | given, **headers)


def tokens(answer: Answer) -> list[int]:
    assert answer.status == 200, answer.body
    return [each["id"] for each in answer.json["details"]["tokens"]]


def text(server: Server, model: str) -> Answer:
    body = {"model": model, "prompt": PROMPT, "max_tokens": NUM_TOKENS, "temperature": 0}
    return server.request("POST", "/v1/completions", body)


def copies(server: Server) -> set[Path]:
    return {path for path in server.run_dir().adapters.iterdir() if path.is_dir()}


def begin(server: Server, name: str | None) -> tuple[socket.socket, bytes]:
    """A stream with an adapter that has begun: its connection, and what has come."""
    parameters = {"max_new_tokens": NUM_LONG, "details": True} | ({} if name is None else {"adapter_id": name})
    client = server.send("/generate_stream", {"inputs": PROMPT, "parameters": parameters})
    client.settimeout(120)
    found = b""
    while b"data:" not in found:
        found += client.recv(1)
    return client, found


def end(client: socket.socket, found: bytes) -> list[int]:
    """The tokens of a stream, which must end as it should."""
    with client:
        while more := client.recv(65536):
            found += more
    events = [json.loads(line[5:]) for line in found.splitlines() if line.startswith(b"data:")]
    assert "details" in events[-1], events[-1]
    assert events[-1]["details"]["finish_reason"] == "length"
    return [event["token"]["id"] for event in events]


@pytest.mark.timeout(600)
def test_a_server_with_adapters_from_start_to_end(
    make_server: MakeServer, files: dict[str, Path], said: Said, tmp_path: Path
) -> None:
    src = {name: shutil.copytree(files[name], tmp_path / name) for name in files}
    server = make_server(LORA_ADAPTERS=f"a={src['a']}", MAX_ADAPTERS="2")
    server.wait_ready()
    for name in "bc":
        answer = server.request("POST", "/adapters", {"name": name, "src": str(src[name])})
        assert (answer.status, answer.json) == (200, {"status": f"Adapter {name} registered"})
    for path in src.values():
        shutil.rmtree(path)
    check_choices(server, said)
    killed = server.engine()
    killed.kill()
    killed.wait()
    server.wait(lambda: server.ping() == 200 and server.metric("heir_engine_restarts_total") == 1)
    check_choices(server, said)

    assert server.request("DELETE", "/adapters/a").status == 200
    assert generate(server, {"parameters": {"adapter_id": "a"}}).status == 422
    assert text(server, "a").status == 404
    assert [each["name"] for each in server.request("GET", "/adapters").json["adapters"]] == ["b", "c"]
    server.wait(lambda: len(copies(server)) == 2)

    streams = {name: begin(server, name) for name in ("b", "c", None)}
    server.process.send_signal(signal.SIGTERM)
    for name, stream in streams.items():
        found = end(*stream)
        assert (found[:NUM_TOKENS], len(found)) == (said[name], NUM_LONG)
    assert server.process.wait(60) == 0


def check_choices(server: Server, said: Said) -> None:
    """Each way to name an adapter, tokens as peft's; what is unknown is refused."""
    assert tokens(generate(server)) == said[None]
    for name in "abc":
        assert tokens(generate(server, {"parameters": {"adapter_id": name}})) == said[name]
        assert tokens(generate(server, **{HEADER: name})) == said[name]
        answer = text(server, name)
        assert (answer.status, answer.json["model"]) == (200, name)
        assert answer.json["choices"][0]["text"] == generate(server, {"adapters": name}).json["generated_text"]
    refused = [generate(server, {"parameters": {"adapter_id": "z"}}), generate(server, **{HEADER: "z"})]
    assert [each.status for each in (*refused, text(server, "z"))] == [422, 422, 404]


@pytest.mark.timeout(900)
def test_two_engines_with_adapters(make_server: MakeServer, files: dict[str, Path], said: Said, tmp_path: Path) -> None:
    """Both have what is registered, one that dies has it again, and both forget what is deleted."""
    src = shutil.copytree(files["b"], tmp_path / "b")
    server = make_server(ENGINE_REPLICAS="2", WEB_WORKERS="2", LORA_ADAPTERS=f"a={files['a']}")
    server.wait(lambda: server.ping() == 200 and server.metric("heir_engines_ready") == 2)
    assert server.request("POST", "/adapters", {"name": "b", "src": str(src)}).status == 200
    shutil.rmtree(src)
    check_both(server, said)
    killed = server.engines()[0]
    killed.kill()
    killed.wait()
    server.wait(lambda: server.metric("heir_engines_ready") == 2 and server.metric("heir_engine_restarts_total") == 1)
    check_both(server, said)

    streams = [(name, begin(server, name)) for name in ("a", "a", "b", None)]
    assert server.request("DELETE", "/adapters/a").status == 200
    assert generate(server, {"parameters": {"adapter_id": "a"}}).status == 422
    for name, stream in streams:
        assert end(*stream)[:NUM_TOKENS] == said[name]
    server.wait(lambda: len(copies(server)) == 1)

    streams = [(name, begin(server, name)) for name in ("b", "b", None, "b")]
    server.process.send_signal(signal.SIGTERM)
    for name, stream in streams:
        assert end(*stream)[:NUM_TOKENS] == said[name]
    assert server.process.wait(60) == 0


def check_both(server: Server, said: Said) -> None:
    """Streams at once, so that either engine has some with each adapter."""
    streams = [(name, begin(server, name)) for name in ("a", "b", None) * 3]
    for name, stream in streams:
        assert end(*stream)[:NUM_TOKENS] == said[name]
