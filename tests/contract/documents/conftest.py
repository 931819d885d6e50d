"""The real web server before an engine that answers everything with "ab" at once: for requests by the hundred."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from container.run_dir import LISTEN_FD_VARIABLE, RUN_DIR_VARIABLE, WORKERS_VARIABLE, RunDir
from handler.engine.ipc import EngineSocket
from handler.seam.protocol import (
    AdapterDone,
    AdapterMessage,
    EngineMessage,
    FinishReason,
    GenerateRequest,
    StepOutput,
    TokenLogprob,
)
from handler.seam.status import Phase, StatusBoard
from tests.support.server import ROOT, Server
from tests.support.tiny_models import EOS_ID, write_tokenizer

_CONTEXT = 100_000
_A_B = [64, 65]


def answer(request: GenerateRequest) -> StepOutput:
    sampling = request.sampling
    tokens = [*(sampling.allowed_token_ids[:1] or [*_A_B, EOS_ID])][: sampling.max_tokens]
    likely = sampling.allowed_token_ids or range(sampling.num_logprobs or 0)
    top = tuple((token_id, -1.0 - token_id) for token_id in likely[: sampling.num_logprobs or 0])
    prompt = [TokenLogprob(-1.0)] * (len(request.prompt_token_ids) - 1)
    return StepOutput(
        request.request_id,
        tokens,
        logprobs=None if sampling.num_logprobs is None else [TokenLogprob(-0.5, top)] * len(tokens),
        prompt_logprobs=None if sampling.num_prompt_logprobs is None else prompt,
        finish_reason=FinishReason.EOS if tokens[-1] == EOS_ID else FinishReason.LENGTH,
    )


def serve(socket: EngineSocket, stop: threading.Event) -> None:
    while not stop.is_set():
        for worker, messages in socket.receive(0.1):
            replies: list[EngineMessage] = [answer(each) for each in messages if isinstance(each, GenerateRequest)]
            replies += [AdapterDone(each.request_id) for each in messages if isinstance(each, AdapterMessage)]
            if replies:
                socket.send(worker, replies)


class QuickServer(Server):
    """gunicorn alone, without PID 1; `request` and `wait` as in `Server`."""

    def __init__(self, directory: Path) -> None:
        self.log = directory / "log"
        self.environ = {}
        self.port = 0
        self.directory = directory

    def start(self, port: int) -> None:
        import socket

        listener = socket.create_server(("127.0.0.1", port), backlog=512)
        self.port = listener.getsockname()[1]
        environ = {
            **os.environ,
            LISTEN_FD_VARIABLE: str(listener.fileno()),
            RUN_DIR_VARIABLE: str(self.directory),
            WORKERS_VARIABLE: "1",
        }
        command = [sys.executable, "-m", "gunicorn", "--config", "python:container.gunicorn_conf"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "container.gunicorn_conf:application()"],
                cwd=ROOT, env=environ, pass_fds=(listener.fileno(),), stdout=log, stderr=log,
            )  # fmt: skip
        listener.close()


def write_card(path: Path, tokenizer: Path) -> None:
    tokenizer.mkdir()
    write_tokenizer(tokenizer)
    card = {
        "model_id": "quick", "tokenizer_dir": str(tokenizer), "revision": None, "vocab_size": 260,
        "max_model_len": _CONTEXT, "eos_token_ids": [EOS_ID], "dtype": "float32", "device": "cpu", "quantize": "none",
        "kv_capacity_tokens": _CONTEXT,
    }  # fmt: skip
    path.write_text(json.dumps(card))


@pytest.fixture(scope="session")
def quick_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuickServer]:
    directory = tmp_path_factory.mktemp("quick")
    run_dir = RunDir(directory)
    board = StatusBoard(run_dir.board, create=True)
    write_card(run_dir.card, directory / "tokenizer")
    board["epoch"] = 1
    board.enter(Phase.READY, "ready")
    stop = threading.Event()
    socket = EngineSocket(str(run_dir.socket(1)))
    engine = threading.Thread(target=serve, args=(socket, stop))
    engine.start()
    server = QuickServer(directory)
    try:
        server.start(0)
        server.wait_ready()
        yield server
    finally:
        server.kill()
        stop.set()
        engine.join()
        socket.close()
        board.close()
