"""A real `EngineCore` over a real ROUTER socket, stepped by the test through a real DEALER."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

from handler.config import EngineConfig
from handler.engine import EngineCore
from handler.grammar import GrammarCompiler
from handler.memory import Limits
from handler.model_loader import LoadedModel, Quantize
from handler.protocol import (
    Abort,
    Failed,
    FinishReason,
    GenerateRequest,
    Rejected,
    SamplingParams,
    StepOutput,
    TokenLogprob,
    decode_from_engine,
    encode,
)
from handler.runner import Runner
from handler.startup import build_core
from handler.status import StatusBoard


@dataclass
class Outcome:
    """Everything one request got."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    num_cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    error: Rejected | Failed | None = None

    @property
    def done(self) -> bool:
        return self.finish_reason is not None or self.error is not None


class LocalEngine:
    """Submit, step, look. Memory books are checked after every step."""

    def __init__(
        self,
        runner: Runner,
        limits: Limits,
        directory: Path,
        max_waiting: int = 256,
        grammars: GrammarCompiler | None = None,
    ) -> None:
        config = EngineConfig(socket_path=str(directory / "e.sock"), max_waiting=max_waiting)
        self.core: EngineCore = build_core(
            config, runner, limits, StatusBoard(directory / "board", create=True), grammars
        )
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{directory / 'e.sock'}")
        self._ids = itertools.count()
        self.outcomes: dict[str, Outcome] = {}

    def submit(
        self,
        token_ids: list[int],
        timeout_s: float = 60.0,
        cache_salt: str = "",
        reuse_prefix: bool = True,
        **sampling: Any,
    ) -> Outcome:
        request_id = f"r{next(self._ids)}"
        params = SamplingParams(**({"max_tokens": 8, "seed": 0, "temperature": 0.0} | sampling))
        outcome = self.outcomes[request_id] = Outcome()
        request = GenerateRequest(request_id, token_ids, params, timeout_s, cache_salt, reuse_prefix)
        self._socket.send(encode([request]))
        return outcome

    def abort(self, outcome: Outcome) -> None:
        request_id = next(key for key, value in self.outcomes.items() if value is outcome)
        self._socket.send(encode([Abort(request_id)]))

    def step(self) -> None:
        time.sleep(0.002)  # lets the frames of this process's other end arrive
        self.core.step(0.0)
        self.core.scheduler.check_integrity()
        while self._socket.poll(2):
            for message in decode_from_engine(self._socket.recv()):
                self._take(message)

    def _take(self, message: StepOutput | Rejected | Failed) -> None:
        outcome = self.outcomes[message.request_id]
        assert not outcome.done, "a message after the terminal one"
        if isinstance(message, StepOutput):
            outcome.token_ids += message.token_ids
            outcome.logprobs += message.logprobs or []
            outcome.prompt_logprobs += message.prompt_logprobs or []
            outcome.num_cached_tokens = message.num_cached_tokens
            outcome.finish_reason = message.finish_reason
        else:
            outcome.error = message

    def run(self, max_steps: int = 2000) -> None:
        """Step until every request has ended."""
        for _ in range(max_steps):
            if all(outcome.done for outcome in self.outcomes.values()):
                return
            self.step()
        raise AssertionError("requests did not end")

    def close(self) -> None:
        self._socket.close()
        self.core.socket.close()
        self._context.term()


def loaded(model: Any, eos_token_ids: frozenset[int] = frozenset()) -> LoadedModel:
    text = model.config.get_text_config()
    return LoadedModel(
        model=model,
        text_config=text,
        eos_token_ids=eos_token_ids,
        dtype=model.dtype,
        device=model.device,
        quantize=Quantize.NONE,
        max_position_embeddings=getattr(text, "max_position_embeddings", 512),
        num_parameters=model.num_parameters(),
    )


def limits(**changes: int) -> Limits:
    values = {
        "max_model_len": 256,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 64,
        "capacity_tokens": 4096,
        "page_size": 16,
    }
    return Limits(**(values | changes))
