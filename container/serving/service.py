"""What every route of a web worker shares: settings, the engine client, the model's text side, readiness."""

from __future__ import annotations

import atexit
import gc
import hashlib
import logging
import os
import select
import socket
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
from flask import Request, Response, after_this_request, current_app, g
from gevent import monkey
from gevent.event import Event

from container.errors import NotReady, Overloaded
from container.generation.engine_client import EngineClient
from container.generation.engine_pool import EnginePool
from container.generation.generation import Generation, Prompt
from container.monitoring import metrics
from container.monitoring.request_record import RequestRecord
from container.run_dir import RunDir
from container.serving.concurrency import Places
from container.serving.queue_time import QueueTime
from container.serving.served_model import ServedModel
from container.settings import Settings
from container.text.chat_template import TemplateError
from container.text.template_renderer import Renderer, RenderProcess
from container.text.tokenizer import TokenizerError
from container.web.responses import when_made
from handler.seam.status import Phase

logger = logging.getLogger(__name__)

_LOAD_INTERVAL_S = 0.05
# The engine is ready a moment before the last worker has read its tokenizer; requests of that moment wait for it.
_LOAD_WAIT_S = 10.0
# gevent's poll would yield to other greenlets; this one only looks.
_poll = monkey.get_original("select", "poll")
_PEER_CLOSED = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class Service:
    """One for each web worker, made after the fork."""

    def __init__(self, settings: Settings, run_dir: RunDir) -> None:
        self.settings = settings
        self.engines = EnginePool(run_dir, metrics.count_stray)
        self._places = Places(run_dir.places)
        self._queue_time = QueueTime(self.engines.total)
        self.sessions_dir = run_dir.sessions
        self._refusal_path = run_dir.refusal
        self._template_fault_path = run_dir.template_fault
        self._model: ServedModel | None = None
        # The start of each engine whose card has been read.
        self._read_epochs: dict[EngineClient, int] = {}
        self._model_read = Event()
        self._renderer = RenderProcess()
        # What is frozen would outlive the modules that it needs to go.
        atexit.register(gc.unfreeze)
        gevent.spawn(self._load_model)

    @property
    def ready(self) -> bool:
        """True if a request can be generated now."""
        return self.engines.ready and self._model is not None

    @property
    def model(self) -> ServedModel:
        """The loaded model. Raises NotReady until there is one and while the engine does not run."""
        if self.engines.ready and self._model is None:
            self._model_read.wait(_LOAD_WAIT_S)
        if self._model is None or not self.ready:
            raise NotReady(f"the model is not ready: {self.phase_name}", retry_after_s=2)
        return self._model

    @property
    def phase_name(self) -> str:
        """One word for where the server's life has got to."""
        if self.engines.draining:
            return "draining"
        phase = self.engines.leading_board.phase
        if phase is Phase.READY and self._model is None:
            phase = Phase.WARMING
        return phase.name.lower()

    @property
    def max_in_flight(self) -> int:
        """Sequences of the whole container before 429: so many for each engine that serves."""
        return self.settings.max_concurrent_requests * max(1, len(self.engines.ready_clients))

    def check_room(self) -> ServedModel:
        """The model, if one more sequence would be taken in now. Raises NotReady or Overloaded, costs nothing."""
        model = self.model
        waiting = [client.board["waiting_tokens"] for client in self.engines.ready_clients]
        limit = model.card.max_waiting_tokens
        full = bool(limit and waiting) and min(waiting) >= limit
        if full or self._places.taken >= self.max_in_flight:
            raise self._overloaded()
        return model

    def admit(self, num_sequences: int) -> ServedModel:
        """The model, and places for so many sequences until the last of the answer has been made: how long a client
        takes to read it is nobody else's matter, and one that has it all can ask again.

        An idle server takes any number a request may have. Raises NotReady or Overloaded before any work is done.
        """
        model = self.check_room()
        if not self._places.take(num_sequences, self.max_in_flight):
            raise self._overloaded()

        def give_back(response: Response) -> Response:
            when_made(response, lambda: self._places.give_back(num_sequences))
            return response

        after_this_request(give_back)
        return model

    def _overloaded(self) -> Overloaded:
        return Overloaded("Model is overloaded", retry_after_s=self._queue_time.retry_after_s)

    def generate(self, prompt: Prompt, request: Request) -> Generation:
        """Start nothing yet: the generation is submitted when its deltas are first asked for."""
        model = self.model
        record: RequestRecord = g.record
        record.model_id = model.card.model_id
        generation = Generation(
            self.engines,
            model.tokenizer,
            replace(prompt, cache_salt=_tenant(request, prompt.cache_salt)),
            _connection_check(request),
            record,
            record.next_generation_id(),
            model.card.eos_token_ids,
        )
        record.add(generation)
        return generation

    def timeout_s(self, streaming: bool) -> float:
        """How long an answer may still take, counted from the end of the request's head."""
        limit_s = self.settings.stream_timeout_s if streaming else self.settings.request_timeout_s
        spent_s = time.monotonic() - float(g.started_s)
        return max(0.001, limit_s - spent_s)

    def _load_model(self) -> None:
        """Load the text side once for each start of an engine, off the event loop: large vocabularies take a second.

        All engines serve the same model, so whichever card was read last is the card.
        """
        while True:
            for client in self.engines.ready_clients:
                if client.board["epoch"] != self._read_epochs.get(client):
                    self._read_card(client, client.board["epoch"])
            self._queue_time.observe()
            gevent.sleep(_LOAD_INTERVAL_S)

    def _read_card(self, client: EngineClient, epoch: int) -> None:
        found = gevent.get_hub().threadpool.apply(_load, (client.engine_dir.card, self.settings, self._renderer))
        if isinstance(found, ServedModel):
            self._model = found
            _settle_garbage()
            self._model_read.set()
            gevent.spawn(self._check_template, found)
        elif not self._refused(found):
            logger.error("the model's card cannot be used: %s", found)
        self._read_epochs[client] = epoch

    def _check_template(self, model: ServedModel) -> None:
        """Say once for all workers, and before anybody chats, if the chat template cannot run. All but chats is
        served, and each chat is told the same.
        """
        try:
            if model.chat_template is not None:
                model.chat_template.compile()
        except TemplateError as exc:
            with suppress(FileExistsError):
                self._template_fault_path.touch(exist_ok=False)
                logger.error("the model's chat template cannot run, chats that need it are refused: %s", exc)

    def _refused(self, reason: Exception) -> bool:
        """True if PID 1 is to end the container, and to say why: it is the model's files, no other engine will help."""
        if not isinstance(reason, TokenizerError | TemplateError):
            return False
        scratch = self._refusal_path.with_suffix(f".{os.getpid()}")
        scratch.write_text(" ".join(str(reason).split()), "utf-8")
        scratch.replace(self._refusal_path)
        return True


def _load(card_path: Path, settings: Settings, renderer: Renderer) -> ServedModel | Exception:
    """Runs in a thread of gevent's pool, which would print the traceback of whatever is raised."""
    try:
        return ServedModel.load(card_path, settings, renderer)
    except (OSError, ValueError, TokenizerError, TemplateError) as exc:
        return exc


def _settle_garbage() -> None:
    """Take what is alive for everlasting: to walk it all again and again would cost 50 ms each time, in which nobody
    is answered. Unfrozen first, so that a model that has been replaced can go.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def service() -> Service:
    """The worker's service, from inside a request."""
    found: Service = current_app.extensions["service"]
    return found


def _tenant(request: Request, salt: str) -> str:
    """Who may share cached prefixes: those with one key, or all who send none, and among them those with one `salt`.
    How fast a first token comes tells whether its prefix was cached, so other tenants' prefixes must not be
    (CVE-2025-46570)."""
    key = request.headers.get("Authorization", "")
    if not key:
        return salt
    return hashlib.sha256(f"{key}\n{salt}".encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _connection_check(request: Request) -> Any:
    """A function that says whether the client is still connected; always True where the server hides the socket."""
    sock: socket.socket | None = request.environ.get("gunicorn.socket")
    if sock is None:
        return lambda: True
    poller = _poll()
    poller.register(sock.fileno(), select.POLLRDHUP)

    def connected() -> bool:
        return not any(events & _PEER_CLOSED for _, events in poller.poll(0))

    return connected
