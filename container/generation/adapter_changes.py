"""Changes of the adapters of all engines, one at a time over all workers: every engine changes, or none.

The list (handler.seam.adapter_list) is what workers and starting engines go by. An adapter is listed before the engines
hear of it, so that an engine that starts meanwhile finds it, and may be named once all have it. One that goes is first
taken off the list, so that no further request names it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import gevent
from gevent.event import AsyncResult
from msgspec import structs

from container.errors import (
    AdapterFailed,
    AdapterInvalid,
    AdaptersFull,
    AdapterUnknown,
    NotReady,
    Overloaded,
    ServiceError,
)
from container.generation.engine_client import EngineClient
from container.generation.engine_pool import EnginePool
from handler.seam.adapter_list import CHANGES, AdapterEntry, AdapterList, new_registration, try_lock
from handler.seam.protocol import (
    AdapterErrorCode,
    AdapterMessage,
    AdapterRefused,
    AdapterReply,
    RegisterAdapter,
    UnregisterAdapter,
    UpdateAdapter,
)

# Seconds between attempts to take the lock: waiting in the system would stop the worker's other requests.
_RETRY_S = 0.01
# A file beside the list, there once an adapter has been loaded while the server ran.
SERVED = "served"
_ERRORS: dict[AdapterErrorCode, type[ServiceError]] = {
    AdapterErrorCode.INVALID: AdapterInvalid,
    AdapterErrorCode.BAD: AdapterFailed,
    AdapterErrorCode.FULL: AdaptersFull,
    AdapterErrorCode.UNKNOWN: AdapterUnknown,
    AdapterErrorCode.DRAINING: NotReady,
}


class AdapterChanges:
    """A worker's hand on the adapters of all engines. Every method raises NotReady if no engine is ready."""

    def __init__(self, engines: EnginePool, listed: AdapterList, max_registered: float, limit_s: float) -> None:
        """A change that takes longer than `limit_s` seconds fails and is undone."""
        self._engines = engines
        self._listed = listed
        self._max_registered = max_registered
        self._limit_s = limit_s

    def register(self, name: str, src: str, *, pin: bool, replace: bool = False, shown: str | None = None) -> None:
        """Load the adapter in directory `src` as `name`. With `replace` it may take another's place.

        Raises AdapterInvalid for a name that is taken, AdapterFailed for what cannot be loaded, AdaptersFull. Their
        messages call it `shown`.
        """
        if not self._max_registered:
            raise AdapterFailed("MAX_ADAPTERS is 0 here: no adapter is ever loaded")
        with self._alone() as deadline_s:
            entry = AdapterEntry(name=name, src=src, registration=new_registration(), pin=pin)
            before = self._find(name)
            # One that is not ready was left by a worker that died over it.
            if before is not None and before.ready and not replace:
                raise AdapterInvalid(f"the adapter {_short(shown or name)} is registered already", param="name")
            if before is None and len(self._listed.read()) >= self._max_registered:
                raise AdaptersFull(f"{self._max_registered:.0f} adapters are registered, and no more are allowed")
            if before is not None and before.ready:
                self._exchange(before, entry, deadline_s)
            else:
                self._add(entry, deadline_s)

    def _add(self, entry: AdapterEntry, deadline_s: float) -> None:
        self._listed.replace(entry)
        try:
            self._change(partial(_registration, entry), deadline_s)
        except BaseException:
            self._listed.remove(entry.registration)
            self._withdraw(entry.name)
            raise
        (self._listed.directory / SERVED).touch()
        self._listed.mark_ready(entry.registration)

    def _exchange(self, before: AdapterEntry, entry: AdapterEntry, deadline_s: float) -> None:
        """Requests find the old one until every engine has the new one."""
        try:
            self._change(partial(_registration, entry), deadline_s)
        except BaseException:
            self._restore(before)
            raise
        self._listed.replace(structs.replace(entry, ready=True))

    def unregister(self, name: str, *, shown: str | None = None) -> None:
        """Forget an adapter; requests that an engine has taken still finish. Raises AdapterUnknown, of `shown`."""
        self._known(name, shown)
        with self._alone() as deadline_s:
            self._listed.remove(self._known(name, shown).registration)
            self._tell(lambda: UnregisterAdapter(_new_id(), name), deadline_s, heeded=False)

    def pin(self, name: str, *, pin: bool, shown: str | None = None) -> None:
        """Keep an adapter on the device, or no longer. Raises AdapterUnknown, of `shown`, AdaptersFull."""
        self._known(name, shown)
        with self._alone() as deadline_s:
            entry = self._known(name, shown)
            try:
                self._change(lambda: UpdateAdapter(_new_id(), name, pin), deadline_s)
            except BaseException:
                self._tell(lambda: UpdateAdapter(_new_id(), name, entry.pin), self._deadline_s(), heeded=False)
                raise
            self._listed.pin(entry.registration, pin)

    def _find(self, name: str) -> AdapterEntry | None:
        return next((each for each in self._listed.read() if each.name == name), None)

    def _known(self, name: str, shown: str | None) -> AdapterEntry:
        entry = self._find(name)
        if entry is None:
            raise AdapterUnknown(f"the adapter {_short(shown or name)} was not found")
        return entry

    @contextmanager
    def _alone(self) -> Iterator[float]:
        """Hold the lock of all changes; yields when the change must be over. Raises NotReady, Overloaded."""
        if not self._engines.ready:
            raise _not_ready()
        deadline_s = self._deadline_s()
        self._listed.directory.mkdir(parents=True, mode=0o700, exist_ok=True)
        with (self._listed.directory / CHANGES).open("w") as file:
            while not try_lock(file.fileno()):
                if time.monotonic() >= deadline_s:
                    raise Overloaded("another adapter is still being loaded", retry_after_s=5)
                gevent.sleep(_RETRY_S)
            yield self._deadline_s()

    def _deadline_s(self) -> float:
        return time.monotonic() + self._limit_s

    def _change(self, message: Callable[[], AdapterMessage], deadline_s: float) -> None:
        """Send a message that some engine must have taken. Raises as `_tell`, and NotReady if there was none."""
        if not self._tell(message, deadline_s):
            raise _not_ready()

    def _tell(self, message: Callable[[], AdapterMessage], deadline_s: float, *, heeded: bool = True) -> bool:
        """Send a message of `message()` to each engine that is ready, also to those that become ready meanwhile.

        Returns whether there was one. Raises ServiceError for the first engine that refuses, dies or is late, unless
        its answer is not `heeded`.
        """
        told: dict[EngineClient, int] = {}
        while True:
            asked = []
            for client in self._engines.ready_clients:
                epoch = client.board["epoch"]
                if told.get(client) != epoch:
                    told[client] = epoch
                    asked.append(client.ask(message()))
            if not asked:
                return bool(told)
            replies = [_reply(each, deadline_s) for each in asked]
            faults = [fault for fault in map(_fault, replies) if fault is not None]
            if faults and heeded:
                raise faults[0]

    def _withdraw(self, name: str) -> None:
        self._tell(lambda: UnregisterAdapter(_new_id(), name), self._deadline_s(), heeded=False)

    def _restore(self, before: AdapterEntry) -> None:
        """Give engines that have the new adapter the old one again; where its files are gone its name is forgotten."""
        try:
            self._tell(partial(_registration, before), self._deadline_s())
        except ServiceError:
            self._listed.remove(before.registration)
            self._withdraw(before.name)


def _short(name: str) -> str:
    return repr(name[:200])


def _not_ready() -> NotReady:
    return NotReady("no engine is ready", retry_after_s=2)


def _new_id() -> str:
    return secrets.token_hex(16)


def _registration(entry: AdapterEntry) -> RegisterAdapter:
    """It replaces what an engine has under the name: the list alone says whether a name is free."""
    return RegisterAdapter(_new_id(), entry.name, entry.src, entry.registration, entry.pin, replace=True)


def _reply(asked: AsyncResult[AdapterReply | None], deadline_s: float) -> AdapterReply | ServiceError | None:
    try:
        reply: AdapterReply | None = asked.get(timeout=max(0.0, deadline_s - time.monotonic()))
    except gevent.Timeout:
        return AdapterFailed("the adapter was not loaded in time")
    return reply


def _fault(reply: AdapterReply | ServiceError | None) -> ServiceError | None:
    if reply is None:
        return NotReady("an engine stopped while its adapters were changed", retry_after_s=5)
    if isinstance(reply, AdapterRefused):
        return _ERRORS[reply.code](reply.message)
    return reply if isinstance(reply, ServiceError) else None
