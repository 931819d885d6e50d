"""A scripted engine on a real socket, and the real web server before it: tests say what the model answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from container.run_dir import RunDir
from handler.engine.ipc import EngineSocket
from handler.seam.protocol import (
    Abort,
    ErrorCode,
    Failed,
    FinishReason,
    FromEngine,
    GenerateRequest,
    Rejected,
    StepOutput,
    TokenLogprob,
)
from handler.seam.status import Phase, StatusBoard
from tests.contract.documents.conftest import QuickServer, write_card
from tests.support.tiny_models import EOS_ID

TEMPLATES = Path(__file__).resolve().parents[2] / "data" / "chat_templates"
Script = Callable[[GenerateRequest], str]


class ScriptedEngine:
    """Answers each request with a text, one byte a step, then EOS. The tokenizer is byte-level: a token a byte."""

    def __init__(self, directory: Path, template: str, special: tuple[str, ...] = (), **config: Any) -> None:
        self.requests: list[GenerateRequest] = []
        self.aborted: list[str] = []
        self.script: Script = lambda _request: ""
        self.rejects: str | None = None
        # The step in which every request fails.
        self.fails_at: int | None = None
        self.bytes_per_step = 1
        run_dir = RunDir(directory)
        self.board = StatusBoard(run_dir.board, create=True)
        write_card(run_dir.card, directory / "tokenizer")
        _dress(directory / "tokenizer", template, special, config)
        self.ids = json.loads((directory / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
        self.special = {text: 260 + i for i, text in enumerate(special)}
        self.board["epoch"] = 1
        self.board.enter(Phase.READY, "ready")
        self._stop = threading.Event()
        self._socket = EngineSocket(str(run_dir.socket(1)))
        self._running: list[tuple[Any, GenerateRequest, list[int], int]] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def says(self, *texts: str) -> None:
        """The next requests are answered with these texts in turn; the last one again and again."""
        self.requests.clear()
        self.aborted.clear()
        self.rejects = self.fails_at = None
        waiting = list(texts)
        self.script = lambda _request: waiting.pop(0) if len(waiting) > 1 else waiting[0]

    @property
    def prompt(self) -> str:
        """The text of the last request's prompt."""
        return self.text(self.requests[-1].prompt_token_ids)

    def text(self, token_ids: list[int]) -> str:
        by_id = {token_id: character for character, token_id in self.ids.items()}
        names = {256: "<|im_start|>", 257: "<|im_end|>"} | {i: text for text, i in self.special.items()}
        parts = [names.get(i, "").encode() or bytes([_BYTES[by_id[i]]]) for i in token_ids]
        return b"".join(parts).decode()

    def token_ids(self, text: str) -> list[int]:
        """`text` as tokens, control tokens where it spells one."""
        for marker, token_id in self.special.items():
            before, found, after = text.partition(marker)
            if found:
                return [*self.token_ids(before), token_id, *self.token_ids(after)]
        return [self.ids[_CHARACTERS[byte]] for byte in text.encode()]

    def _run(self) -> None:
        while not self._stop.is_set():
            for worker, messages in self._socket.receive(0.002 if self._running else 0.05):
                for message in messages:
                    self._take(worker, message)
            self._running = [each for each in map(self._step, self._running) if each is not None]

    def _take(self, worker: Any, message: GenerateRequest | Abort) -> None:
        if isinstance(message, Abort):
            self.aborted.append(message.request_id)
            self._running = [each for each in self._running if each[1].request_id != message.request_id]
            return
        self.requests.append(message)
        if self.rejects is not None:
            refused: list[FromEngine] = [Rejected(message.request_id, ErrorCode.INVALID, self.rejects)]
            self._socket.send(worker, refused)
            return
        said = list(message.sampling.allowed_token_ids[:1]) or [*self.token_ids(self.script(message)), EOS_ID]
        ids = said[: message.sampling.max_tokens]
        self._running.append((worker, message, ids, 0))

    def _step(
        self, each: tuple[Any, GenerateRequest, list[int], int]
    ) -> tuple[Any, GenerateRequest, list[int], int] | None:
        worker, request, ids, done = each
        new = ids[done : done + self.bytes_per_step]
        over = done + len(new) == len(ids)
        if self.fails_at is not None and done >= self.fails_at * self.bytes_per_step:
            failed: list[FromEngine] = [Failed(request.request_id, ErrorCode.INTERNAL, "the engine gave up")]
            self._socket.send(worker, failed)
            return None
        sampling = request.sampling
        likely = sampling.allowed_token_ids or range(sampling.num_logprobs or 0)
        top = tuple((token_id, -1.0 - token_id) for token_id in likely[: sampling.num_logprobs or 0])
        prompt = None
        if sampling.num_prompt_logprobs is not None and done == 0:
            best = tuple((token_id, -1.0 - token_id) for token_id in range(sampling.num_prompt_logprobs))
            prompt = [TokenLogprob(-float(i), best) for i in range(1, len(request.prompt_token_ids))]
        reason = None
        if over:
            reason = FinishReason.EOS if new[-1] == EOS_ID else FinishReason.LENGTH
        output = StepOutput(
            request.request_id, new,
            logprobs=None if sampling.num_logprobs is None else [TokenLogprob(-0.5, top)] * len(new),
            prompt_logprobs=prompt, finish_reason=reason, num_cached_tokens=3, start=done,
        )  # fmt: skip
        messages: list[FromEngine] = [output]
        self._socket.send(worker, messages)
        return None if over else (worker, request, ids, done + len(new))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()
        self.board.close()


class ScriptedServer(QuickServer):
    """The web server with its engine."""

    engine: ScriptedEngine

    def chat(self, *messages: Any, **fields: Any) -> Any:
        """The answer to a chat, 200 or not."""
        sent = [{"role": "user", "content": each} if isinstance(each, str) else each for each in messages]
        return self.request("POST", "/v1/chat/completions", {"messages": sent or [USER], **fields})

    def ok(self, *messages: Any, **fields: Any) -> Any:
        """The decoded answer of status 200."""
        answer = self.chat(*messages, **fields)
        assert answer.status == 200, answer.body
        return answer.json

    def chunks(self, *messages: Any, path: str = "/v1/chat/completions", **fields: Any) -> list[Any]:
        """The events of a streamed answer, which ends with [DONE]."""
        sent = [{"role": "user", "content": each} if isinstance(each, str) else each for each in messages]
        body = fields if path.endswith("/v1/completions") else {"messages": sent or [USER], **fields}
        answer = self.request("POST", path, {**body, "stream": True})
        assert answer.status == 200, answer.body
        frames = answer.body.decode().removesuffix("\n\n").split("\n\n")
        assert frames.pop() == "data: [DONE]"
        return [json.loads(frame.removeprefix("data: ")) for frame in frames]


USER = {"role": "user", "content": "hi"}


@contextmanager
def serving(directory: Path, template: str) -> Iterator[ScriptedServer]:
    """A `started` server for the block."""
    server = started(directory, template)
    try:
        yield server
    finally:
        server.kill()
        server.engine.close()


def started(directory: Path, template: str, special: tuple[str, ...] = (), **config: Any) -> ScriptedServer:
    """A ready server for a template of tests/data/chat_templates; `config` goes into tokenizer_config.json."""
    engine = ScriptedEngine(directory, (TEMPLATES / f"{template}.jinja").read_text(), special, **config)
    server = ScriptedServer(directory)
    server.engine = engine
    server.start(0)
    server.wait_ready()
    return server


def _dress(directory: Path, template: str, special: tuple[str, ...], more: dict[str, Any]) -> None:
    """Give the tiny tokenizer a chat template and more control tokens, from id 260 on."""
    config = json.loads((directory / "tokenizer_config.json").read_text()) | more
    (directory / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    for i, text in enumerate(special):
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        tokenizer["added_tokens"].append({"id": 260 + i, "content": text, **flags})
    path.write_text(json.dumps(tokenizer))


def _alphabet() -> dict[int, str]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in printable}
    hidden = [byte for byte in range(256) if byte not in table]
    return table | {byte: chr(0x100 + i) for i, byte in enumerate(hidden)}


_CHARACTERS = _alphabet()
_BYTES = {character: byte for byte, character in _CHARACTERS.items()}
