"""What all routes of a web worker share: a facade over admission, the model and the engines."""

from __future__ import annotations

import atexit
import gc
import hashlib
from collections.abc import Callable
from dataclasses import replace

import gevent
from flask import Request, Response, after_this_request, current_app, has_request_context, request

from container.errors import NoEngine, NotReady
from container.generation.adapter_changes import AdapterChanges
from container.generation.engine_pool import EnginePool
from container.generation.generation import Generation, Prompt
from container.hooks.client import HookClient
from container.hooks.model.caller import Caller
from container.hooks.model.nested import nested_caller, nested_token
from container.monitoring import metrics
from container.monitoring.request_record import RequestRecord
from container.run_dir import RunDir
from container.serving.admission import Admission
from container.serving.model_watch import ModelWatch
from container.serving.served_adapters import ServedAdapters
from container.serving.served_model import ServedModel
from container.settings import Settings
from container.web.api_key import tenant_of
from container.web.disconnect import connection_check
from container.web.responses import when_made
from handler.seam.adapter_list import AdapterList
from handler.seam.status import Phase, StatusBoard

# Seconds between looks for an engine that has started: before the first model is loaded, and later.
_POLL_S, _CALM_POLL_S = 0.05, 0.25


class Service:
    """One for each web worker, made after the fork."""

    def __init__(
        self, settings: Settings, run_dir: RunDir, describe: Callable[[ServedModel], str] | None = None
    ) -> None:
        """`describe` gives a line about a loaded model for the log."""
        self.settings = settings
        self.engines = EnginePool(run_dir, metrics.count_stray)
        # PID 1 makes the board before it starts the web workers.
        self.hook = HookClient(run_dir.hook) if run_dir.hook.board.exists() else None
        self._nested_token = nested_token(run_dir.path)
        self.sessions_dir = run_dir.sessions
        listed = AdapterList(run_dir.adapters)
        self.adapters = ServedAdapters(listed, awaited=settings.awaits_adapters)
        self.adapter_changes = AdapterChanges(
            self.engines, listed, settings.max_registered_adapters, settings.request_timeout_s
        )
        self._admission = Admission(self.engines, run_dir.concurrency, self._max_per_engine)
        self._models = ModelWatch(self.engines, run_dir, settings, describe)
        # Frozen objects would outlive the modules that their finalizers need.
        atexit.register(gc.unfreeze)
        gevent.spawn(self._poll)

    def _poll(self) -> None:
        while True:
            self._models.poll()
            self._admission.observe()
            metrics.flush()
            gevent.sleep(_CALM_POLL_S if self._models.loaded else _POLL_S)

    @property
    def ready(self) -> bool:
        """True if a request can be served now, the hook's and the engine's alike."""
        if self.hook is not None and not self.hook.board.ready:
            return False
        return self._models.ready or not self.has_engine

    @property
    def has_engine(self) -> bool:
        """False if the user's code loads its own model."""
        return self.hook is None or not self.hook.owns_model

    @property
    def model(self) -> ServedModel:
        """The loaded model. Raises NoEngine; NotReady before the first load and while no engine is ready."""
        if not self.has_engine:
            raise NoEngine
        if self.hook is not None and self.hook.board["draining"] and self.nested_caller is None:
            raise NotReady("the model is not ready: draining", retry_after_s=2)
        return self._models.model

    @property
    def nested_caller(self) -> Caller | None:
        """For whom the hook sent the request that is being answered; None if a client sent it.

        While PID 1 drains, calls in flight still send some.
        """
        return nested_caller(self._nested_token, request.headers.get) if has_request_context() else None

    @property
    def answering_hook(self) -> HookClient | None:
        """The hook, if the request that is being answered is for it. One that it sent itself would never end."""
        return self.hook if self.nested_caller is None else None

    @property
    def leading_board(self) -> StatusBoard:
        """The board that says how far the start of the whole container is: the hook starts before the engines."""
        if self.hook is not None and (not self.hook.board.ready or not self.has_engine):
            return self.hook.board
        return self.engines.leading_board

    @property
    def detail(self) -> str:
        """What the leading board says; why a hook cannot run may name files, which the log alone does."""
        board = self.leading_board
        if self.hook is not None and board is self.hook.board and board.phase is Phase.FAILED:
            return "the user's code cannot run; the log says why"
        return board.detail

    @property
    def phase_name(self) -> str:
        """The server's phase in one word."""
        board = self.leading_board
        if self.hook is not None and board is self.hook.board:
            return "draining" if board["draining"] else board.phase.name.lower()
        return self._models.phase_name

    def _max_per_engine(self) -> int:
        """The engine's own bound, unless the operator sets one."""
        return self.settings.max_concurrent_requests or self.model.card.max_concurrent_requests

    @property
    def max_in_flight(self) -> int:
        """Sequences of the whole container before 429."""
        return self._admission.max_in_flight

    def check_room(self) -> None:
        """Raise NotReady or Overloaded if not even one more sequence would be admitted; reserve nothing."""
        self._admission.check_room(self.model.card.max_waiting_tokens)

    def admit(self, num_sequences: int) -> None:
        """Reserve `num_sequences` until generation ends. Slow readers do not hold a reservation.

        Raises NotReady or Overloaded.
        """
        release = self._admission.admit(num_sequences, self.model.card.max_waiting_tokens)
        after_this_request(_releasing(release))

    def generate(self, prompt: Prompt, request: Request, record: RequestRecord) -> Generation:
        """A generation of `request`. It is submitted when its deltas are first asked for.

        The request's adapter is that of each prompt that does not have its own, "" for the base model.
        """
        model = self.model
        record.model_id = model.card.model_id
        generation = Generation(
            self.engines,
            model.tokenizer,
            replace(
                prompt,
                cache_salt=_salt(self._tenant(request), prompt.cache_salt),
                adapter=(record.adapter if prompt.adapter is None else prompt.adapter) or None,
            ),
            connection_check(request),
            record,
            record.next_generation_id(),
            model.card.eos_token_ids,
        )
        record.add(generation)
        return generation

    def _tenant(self, request: Request) -> str:
        """Whose request it is; what a hook asks belongs to its own caller, whose key the hook does not have."""
        caller = nested_caller(self._nested_token, request.headers.get)
        return tenant_of(request) if caller is None else caller.tenant

    def timeout_s(self, record: RequestRecord, *, streaming: bool) -> float:
        """How long the answer may still take, counted from the request's arrival."""
        limit_s = self.settings.stream_timeout_s if streaming else self.settings.request_timeout_s
        return max(0.001, limit_s - record.elapsed_s)


def service() -> Service:
    """The worker's service, from inside a request."""
    found: Service = current_app.extensions["service"]
    return found


def _releasing(release: Callable[[], None]) -> Callable[[Response], Response]:
    def attach(response: Response) -> Response:
        when_made(response, release)
        return response

    return attach


def _salt(tenant: str, salt: str) -> str:
    """The cache salt of a tenant, "" for those without a key, together with the request's own `salt`.

    The time to the first token reveals whether a prefix was cached, so tenants must not share prefixes
    (CVE-2025-46570).
    """
    if not tenant:
        return salt
    return hashlib.sha256(f"{tenant}\n{salt}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
