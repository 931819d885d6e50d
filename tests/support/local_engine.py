"""A real `EngineCore` over a real ROUTER socket, stepped by the test through a real DEALER."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import zmq

from handler.adapters.adapter import Adapter
from handler.engine.adapters.registry import AdapterRegistry
from handler.engine.core import EngineCore
from handler.model.loader import LoadedModel, Quantize
from handler.runners.limits import Limits
from handler.runners.runner import Runner
from handler.sampling.grammar import GrammarCompiler
from handler.seam.adapter_list import new_registration
from handler.seam.config import EngineConfig
from handler.seam.protocol import (
    Abort,
    AdapterDone,
    AdapterMessage,
    AdapterRefused,
    AdapterReply,
    EngineMessage,
    Failed,
    FinishReason,
    GenerateRequest,
    RegisterAdapter,
    Rejected,
    SamplingParams,
    StepOutput,
    ToEngine,
    TokenLogprob,
    UnregisterAdapter,
    UpdateAdapter,
    decode_from_engine,
    encode,
)
from handler.seam.status import StatusBoard
from handler.startup import build_core

_WORKER = b"worker"
# For frames between two sockets of this process, on a machine that does other things too.
_PATIENCE_S = 60
# An engine with nothing to run waits so long for a grammar that is being compiled.
_IDLE_WAIT_S = 0.002


def _key(message: ToEngine) -> tuple[type, str]:
    return type(message), message.request_id


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
        draft: tuple[Runner, Limits] | None = None,
        read_adapter: Callable[[Path], Adapter] | None = None,
        **settings: Any,
    ) -> None:
        """`draft` runs a draft model; `read_adapter` as in `build_core`; `settings` are fields of `EngineConfig`."""
        usual = {"max_waiting": max_waiting, "num_draft_tokens": 8 if draft else 0}
        self.config = EngineConfig(**(usual | settings | {"socket_path": str(directory / "e.sock")}))
        self.board = StatusBoard(directory / "board", create=True)
        self.core: EngineCore = build_core(
            self.config, runner, limits, self.board, grammars, draft=draft, read_adapter=read_adapter
        )
        self._receive, self._send = self.core.socket.receive, self.core.socket.send
        socket: Any = self.core.socket
        socket.receive, socket.send = self._receive_all, self._send_counting
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.IDENTITY, _WORKER)
        self._socket.connect(f"ipc://{directory / 'e.sock'}")
        self._ids = itertools.count()
        self.outcomes: dict[str, Outcome] = {}
        self.replies: dict[str, AdapterReply] = {}
        self._on_their_way: set[tuple[type, str]] = set()
        self._num_to_read = 0

    def _receive_all(self, timeout_s: float) -> Iterator[tuple[bytes, list[ToEngine]]]:
        """A step sees all that was sent before it: else the machine's load would say in which step a request comes."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            for worker, messages in self._receive(timeout_s):
                self._on_their_way -= {_key(message) for message in messages}
                yield worker, messages
            if not self._on_their_way:
                return
            assert time.monotonic() < deadline, "a frame did not arrive"
            timeout_s = 0.1

    def _send_counting(self, worker: bytes, messages: list[EngineMessage]) -> bool:
        sent = self._send(worker, messages)
        self._num_to_read += sent and worker == _WORKER
        return sent

    def submit(
        self,
        token_ids: list[int],
        timeout_s: float = 600.0,
        cache_salt: str = "",
        reuse_prefix: bool = True,
        adapter: str | None = None,
        **sampling: Any,
    ) -> Outcome:
        request_id = f"r{next(self._ids)}"
        params = SamplingParams(**({"max_tokens": 8, "seed": 0, "temperature": 0.0} | sampling))
        outcome = self.outcomes[request_id] = Outcome()
        request = GenerateRequest(request_id, token_ids, params, timeout_s, cache_salt, reuse_prefix, adapter)
        self.expect(request)
        self._socket.send(encode([request]))
        return outcome

    @property
    def adapters(self) -> AdapterRegistry:
        """The engine's adapters."""
        assert self.core.adapters is not None
        return self.core.adapters

    def tell(self, message: AdapterMessage) -> str:
        """Send a message about an adapter. Its reply will be `replies[request_id]`."""
        self.expect(message)
        self._socket.send(encode([message]))
        return message.request_id

    def register(self, name: str, path: Path, **options: Any) -> AdapterReply:
        """Register an adapter, and step until the engine has replied."""
        values = {"registration": new_registration()} | options
        return self.answer(self.tell(RegisterAdapter(f"r{next(self._ids)}", name, str(path), **values)))

    def unregister(self, name: str) -> AdapterReply:
        """The same for its end."""
        return self.answer(self.tell(UnregisterAdapter(f"r{next(self._ids)}", name)))

    def pin(self, name: str, pin: bool) -> AdapterReply:
        """The same for its pin."""
        return self.answer(self.tell(UpdateAdapter(f"r{next(self._ids)}", name, pin)))

    def answer(self, request_id: str) -> AdapterReply:
        """The reply to a message, once it is there."""
        deadline = time.monotonic() + _PATIENCE_S
        while request_id not in self.replies:
            assert time.monotonic() < deadline, "no reply"
            self.step()
        return self.replies[request_id]

    def abort(self, outcome: Outcome) -> None:
        request_id = next(key for key, value in self.outcomes.items() if value is outcome)
        self.expect(Abort(request_id))
        self._socket.send(encode([Abort(request_id)]))

    def expect(self, message: ToEngine) -> None:
        """It is being sent, here or by another worker: the next step waits for it."""
        self._on_their_way.add(_key(message))

    def step(self) -> None:
        """One step of the engine, and all it has said."""
        self.core.step(_IDLE_WAIT_S)
        self.core.scheduler.check_integrity()
        while self._num_to_read:
            assert self._socket.poll(_PATIENCE_S * 1000), "a frame did not arrive"
            self._num_to_read -= 1
            for message in decode_from_engine(self._socket.recv()):
                if isinstance(message, AdapterDone | AdapterRefused):
                    assert message.request_id not in self.replies, "a second reply"
                    self.replies[message.request_id] = message
                else:
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

    def run(self) -> None:
        """Step until every request has ended."""
        deadline = time.monotonic() + 2 * _PATIENCE_S
        while not all(outcome.done for outcome in self.outcomes.values()):
            assert time.monotonic() < deadline, "requests did not end"
            self.step()

    def close(self) -> None:
        self._socket.close()
        if self.core.adapters is not None:
            list(self.core.adapters.stop())
        self.core.socket.close()
        self._context.term()


def loaded(
    model: Any,
    eos_token_ids: frozenset[int] = frozenset(),
    quantize: str = str(Quantize.NONE),
    kv_codes: torch.dtype | None = None,
) -> LoadedModel:
    text = model.config.get_text_config()
    return LoadedModel(
        model=model,
        text_config=text,
        eos_token_ids=eos_token_ids,
        dtype=model.dtype,
        device=model.device,
        quantize=quantize,
        max_position_embeddings=getattr(text, "max_position_embeddings", 512),
        kv_codes=kv_codes,
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
