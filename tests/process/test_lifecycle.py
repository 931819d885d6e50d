"""PID 1, gunicorn and the engine together, over a tiny model: start, failure, restart, stop."""

from __future__ import annotations

import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.server import Server, free_port, lives

MakeServer = Callable[..., Server]
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 8}


@pytest.fixture
def make_server(tmp_path: Path, tiny_llama: Path, kept: Path) -> Iterator[MakeServer]:
    servers: list[Server] = []

    def make(port: int | None = None, **environ: str) -> Server:
        # One web worker, where their number does not matter: each takes seconds to start.
        values = {"HF_MODEL_ID": str(tiny_llama), "CACHE_DIR": str(kept), "WEB_WORKERS": "1"} | environ
        servers.append(Server(tmp_path / f"log{len(servers)}", values, port or free_port()))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


@pytest.fixture(scope="module")
def sagemaker_server(tiny_llama: Path, kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With what the SageMaker SDK injects into every container."""
    environ = {
        "HF_MODEL_ID": str(tiny_llama),
        "CACHE_DIR": str(kept),
        "SAGEMAKER_PROGRAM": "",
        "SAGEMAKER_SUBMIT_DIRECTORY": "",
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
        "SAGEMAKER_REGION": "us-east-1",
        "MAX_TOTAL_TOKENS": "",
        "SAGEMAKER_BIND_TO_PORT": str(free_port()),
    }
    server = Server(tmp_path_factory.mktemp("sagemaker") / "log", environ, free_port())
    server.port = int(environ["SAGEMAKER_BIND_TO_PORT"])
    try:
        server.wait_ready()
        yield server
        assert server.stop() == 0
    finally:
        server.kill()


def all_end(processes: list[psutil.Process]) -> None:
    """Those nobody waits for end a moment after PID 1."""
    deadline = time.monotonic() + 60
    while alive := [process for process in processes if lives(process)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


def test_ping_tells_the_phase_until_a_token_was_generated(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server(CACHE_DIR=str(tmp_path / "nothing kept"), WEB_WORKERS="")
    phases: list[str] = []

    def ready() -> bool:
        try:
            answer = server.request("GET", "/ping")
        except ConnectionRefusedError:
            return False
        if answer.status == 503:
            phases.append(answer.json["phase"])
            assert answer.headers["Retry-After"]
            refused = server.request("POST", "/v1/chat/completions", CHAT)
            assert refused.status in {200, 503}
        else:
            assert (answer.status, answer.body) == (200, b"")
        return answer.status == 200

    server.wait(ready)
    assert phases, "the port must answer before the model is loaded"
    assert phases[0] in {"starting", "preparing", "loading"}
    assert server.request("POST", "/v1/chat/completions", CHAT).status == 200
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert server.stop() == 0
    all_end(children)
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_loading_stops_cleanly(make_server: MakeServer, number: int) -> None:
    server = make_server()
    server.wait(lambda: server.ping() == 503)
    assert server.stop(number) == 0


def test_sigterm_lets_streams_finish_and_refuses_new_work(make_server: MakeServer) -> None:
    server = make_server(ENGINE_STALL_TIMEOUT_S="600", WEB_WORKERS="")
    server.wait_ready()
    body = CHAT | {"stream": True, "max_tokens": 480, "ignore_eos": True}
    with server.caught("/v1/chat/completions", body) as client:
        server.process.send_signal(signal.SIGTERM)
        server.wait(lambda: server.ping() == 503)
        assert server.request("GET", "/ping").json["phase"] == "draining"
        refused = server.request("POST", "/v1/chat/completions", CHAT)
        assert (refused.status, refused.json["error"]["code"]) == (503, "not_ready")
        reading = client.dup()  # outlives the block
    with reading:
        text = b"".join(iter(lambda: reading.recv(65536), b""))
    assert text.count(b'"finish_reason":"length"') == 1
    assert b"[DONE]" in text
    assert server.stop() == 0


def test_a_dead_engine_is_restarted_and_open_requests_end(sagemaker_server: Server) -> None:
    server = sagemaker_server
    outcome: list[Any] = []

    def ask() -> None:
        outcome.append(server.request("POST", "/v1/chat/completions", CHAT | {"max_tokens": 450, "ignore_eos": True}))

    asking = threading.Thread(target=ask)
    first = server.engine().pid
    asking.start()
    server.wait(lambda: server.request("GET", "/health").status == 200)
    server.engine().kill()
    server.wait(lambda: server.ping() == 503)
    asking.join(60)
    assert not asking.is_alive()
    assert outcome[0].status in {200, 503}, "it ended before the kill or with a clear error"
    server.wait_ready()
    assert server.engine().pid != first
    assert server.request("POST", "/v1/chat/completions", CHAT).status == 200


def test_an_engine_that_keeps_dying_ends_the_container(make_server: MakeServer) -> None:
    server = make_server()
    server.kill_engines(3)
    assert server.process.wait(120) == 70
    assert "giving up" in server.log.read_text()


def test_killing_pid_1_leaves_no_process(make_server: MakeServer) -> None:
    server = make_server()
    server.wait_ready()
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert len(children) >= 3
    server.process.kill()
    server.process.wait()
    all_end(children)


def last_line(server: Server) -> str:
    return server.log.read_text().strip().splitlines()[-1]


def fails(server: Server, code: int, sentence: str) -> None:
    assert server.process.wait(300) == code
    log = server.log.read_text()
    assert sentence in log
    assert "Traceback" not in log


def test_port_in_use(make_server: MakeServer) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        fails(make_server(port=taken.getsockname()[1]), 4, "cannot be opened: Address already in use")


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"MAX_TOTAL_TOKENS": "many"}, "MAX_TOTAL_TOKENS must be a whole number from 2 to"),
        ({"HF_MODEL_QUANTIZE": "nf4"}, "HF_MODEL_QUANTIZE must be one of none, bitsandbytes"),
        ({"MAX_INPUT_TOKENS": "100", "MAX_TOTAL_TOKENS": "100"}, "MAX_INPUT_TOKENS must be less than"),
        ({"MAX_TOTAL_TOKENS": "100000"}, "MAX_TOTAL_TOKENS must be at most 512, the model's context. Given: 100000"),
        ({"DEVICE": "cuda"}, "finds no usable CUDA device"),
    ],
)
def test_impossible_settings(make_server: MakeServer, environ: dict[str, str], sentence: str) -> None:
    fails(make_server(**environ), 2, sentence)


def test_a_missing_model(make_server: MakeServer) -> None:
    fails(make_server(HF_MODEL_ID="/nowhere/at/all"), 3, "neither a directory, a .gguf file nor a hub id")


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0{}", "could not be loaded"),
        ("tokenizer.json", b"{", "tokenizer.json is not a valid tokenizer file"),
        ("chat_template.jinja", b"{% for m in messages %}", "chat template"),
        ("config.json", b"{", "config.json is not valid JSON"),
    ],
)
def test_damaged_models(
    make_server: MakeServer, tiny_llama: Path, tmp_path: Path, file: str, content: bytes, sentence: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_llama, broken)
    (broken / file).write_bytes(content)
    fails(make_server(HF_MODEL_ID=str(broken)), 3, sentence)


def test_code_beside_the_model_is_named(make_server: MakeServer, tiny_llama: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    (model / "handler.py").write_text("raise SystemExit(9)")
    server = make_server(HF_MODEL_ID=str(model))
    server.wait_ready()
    assert server.request("GET", "/info").json["custom_code_ignored"] == [str(model / "handler.py")]
    assert server.log.read_text().count("handler.py") == 1
    refused = make_server(HF_MODEL_ID=str(model), REFUSE_CUSTOM_CODE="true")
    fails(refused, 3, "REFUSE_CUSTOM_CODE is set, and this server does not run")


def test_empty_sagemaker_values_are_unset(sagemaker_server: Server) -> None:
    assert sagemaker_server.request("GET", "/info").json["max_total_tokens"] == 512
