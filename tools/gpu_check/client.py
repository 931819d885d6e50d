"""`Client`: an engine in this process and the web side's end of its socket, with the time of each token."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import Any

import zmq

from handler.engine.core import EngineCore
from handler.runners.limits import Limits
from handler.runners.runner import Runner
from handler.sampling.grammar import GrammarCompiler
from handler.seam.config import EngineConfig
from handler.seam.protocol import (
    AdapterDone,
    AdapterRefused,
    FromEngine,
    GenerateRequest,
    SamplingParams,
    StepOutput,
    ToEngine,
    decode_from_engine,
    encode,
)
from handler.seam.status import StatusBoard
from handler.startup import build_core


@dataclass
class Answer:
    """What one request got, and when: `times_s` holds the time of each token."""

    token_ids: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    num_prompt_logprobs: int = 0
    error: str = ""
    is_done: bool = False


class Wire:
    """The web side's socket. Requests in, answers out."""

    def __init__(self, socket_path: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{socket_path}")
        self._ids = itertools.count()
        self.answers: dict[str, Answer] = {}

    def submit(self, token_ids: list[int], **sampling: Any) -> Answer:
        """Send a request; greedy to its length unless `sampling` says otherwise."""
        request_id = f"r{next(self._ids)}"
        usual = {"max_tokens": 8, "seed": 0, "temperature": 0.0, "ignore_eos": True}
        params = SamplingParams(**(usual | sampling))
        messages: list[ToEngine] = [GenerateRequest(request_id, token_ids, params, 600.0, reuse_prefix=False)]
        self._socket.send(encode(messages))
        self.answers[request_id] = Answer()
        return self.answers[request_id]

    def read(self, wait_ms: int = 0) -> None:
        """Take what the engine has sent."""
        while self._socket.poll(wait_ms):
            now = time.perf_counter()
            for message in decode_from_engine(self._socket.recv()):
                if not isinstance(message, AdapterDone | AdapterRefused):
                    self._take(message, now)
            wait_ms = 0

    def _take(self, message: FromEngine, now: float) -> None:
        answer = self.answers[message.request_id]
        if not isinstance(message, StepOutput):
            answer.error, answer.is_done = str(message.code), True
            return
        answer.token_ids += message.token_ids
        answer.times_s += [now] * len(message.token_ids)
        answer.num_prompt_logprobs += len(message.prompt_logprobs or ())
        answer.is_done = message.finish_reason is not None

    @property
    def is_done(self) -> bool:
        """Whether every request has ended."""
        return all(answer.is_done for answer in self.answers.values())

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        self._context.term()


class Client(Wire):
    """A `Wire` to an engine that this process steps itself."""

    def __init__(
        self,
        config: EngineConfig,
        runner: Runner,
        limits: Limits,
        board: StatusBoard,
        grammars: GrammarCompiler | None = None,
    ) -> None:
        self.core: EngineCore = build_core(config, runner, limits, board, grammars)
        super().__init__(config.socket_path)

    def run(self) -> float:
        """Step until every request has ended; returns the seconds."""
        started = time.perf_counter()
        while not self.is_done:
            self.core.step(0.002)
            self.read()
        return time.perf_counter() - started

    def close(self) -> None:
        """Close both ends."""
        super().close()
        self.core.socket.close()
