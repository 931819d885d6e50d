"""`AdapterRegistry`: the adapters of this engine by name: registered, in slots, leaving. Lives in the engine's loop.

A name means its newest registration. One that is unregistered is unknown at once and leaves when the last sequence that
uses it has ended. All registered ones are on the host; those in use, and as many others as fit, are in slots too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path

from handler.adapters.adapter import Adapter, BadAdapter
from handler.engine.adapters.reader import AdapterReader, NoMemory, ReadAdapter
from handler.engine.in_flight import InFlight
from handler.engine.step import raise_if_fatal
from handler.model.machine_memory import give_back, is_out_of_memory
from handler.runners.runner import Runner
from handler.scheduling.adapter_slots import BASE, AdapterSlots
from handler.scheduling.sequence import Sequence
from handler.seam.errors import one_line
from handler.seam.protocol import (
    AdapterDone,
    AdapterErrorCode,
    AdapterMessage,
    AdapterRefused,
    AdapterReply,
    RegisterAdapter,
    UnregisterAdapter,
)

logger = logging.getLogger(__name__)


# Seconds between signs of life while an adapter is read and the loop does not run.
_BEAT_S = 0.5


class Refusal(Exception):
    """Why a message about an adapter is refused."""

    def __init__(self, code: AdapterErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """`max_registered` adapters at once, 0 for as many as memory holds; none has a rank above `max_rank`."""

    max_registered: int = 0
    max_rank: int = 64


@dataclass(slots=True, eq=False)
class _Registered:
    name: str
    registration: str
    adapter: Adapter
    fingerprint: int
    pin: bool


@dataclass(slots=True, eq=False)
class _Reading:
    """An adapter that is being read, and who waits for it: the worker and the id of each message."""

    message: RegisterAdapter
    future: Future[ReadAdapter]
    waiting: list[tuple[bytes, str]] = field(default_factory=list)
    unwanted: bool = False


class AdapterRegistry:
    """Answers messages about adapters, and keeps the runner's slots as `AdapterSlots` says."""

    def __init__(
        self,
        runner: Runner,
        slots: AdapterSlots,
        reader: AdapterReader,
        limits: AdapterLimits,
        in_flight: InFlight,
        running: Callable[[], list[Sequence]],
    ) -> None:
        """`running` are the sequences that run now."""
        self.slots = slots
        self.num_loads = 0
        self._runner = runner
        self._reader = reader
        self._limits = limits
        self._in_flight = in_flight
        self._running = running
        self._by_name: dict[str, _Registered] = {}
        # Those that leave too.
        self._known: dict[str, _Registered] = {}
        self._reading: dict[str, _Reading] = {}
        # What the runner has in each slot.
        self._filled: list[str | None] = [None] * len(slots.contents)

    @property
    def pending(self) -> int:
        """Adapters that are being read."""
        return len(self._reading)

    @property
    def num_registered(self) -> int:
        """Names that requests may use."""
        return len(self._by_name)

    @property
    def num_bytes(self) -> int:
        """What all adapters take on the host, also those that leave."""
        return sum(each.adapter.num_bytes for each in self._known.values())

    def registration(self, name: str) -> str | None:
        """The registration that a name means now; None if it is unknown."""
        found = self._by_name.get(name)
        return None if found is None else found.registration

    def handle(self, worker: bytes, message: AdapterMessage) -> AdapterReply | None:
        """Do what `message` asks. None: the reply comes from `finished`."""
        try:
            if isinstance(message, RegisterAdapter):
                return self._register(worker, message)
            if isinstance(message, UnregisterAdapter):
                self._unregister(message.name)
            else:
                self._pin(message.name, message.pin)
        except Refusal as exc:
            return AdapterRefused(message.request_id, exc.code, str(exc))
        return AdapterDone(message.request_id)

    def knows(self, registration: str) -> bool:
        """Whether it is registered, leaves, or is being read."""
        return registration in self._known or registration in self._reading

    def register_now(self, message: RegisterAdapter, beat: Callable[[], None] = lambda: None) -> Refusal | None:
        """Read and register an adapter while nothing else runs. Why not, or None. Calls `beat` meanwhile."""
        try:
            self._check_place(message)
        except Refusal as exc:
            return exc
        future = self._reader.submit(Path(message.path), message.registration)
        while wait([future], _BEAT_S).not_done:
            beat()
        return self._settle(_Reading(message, future))

    def keep_only(self, registrations: Collection[str]) -> None:
        """Unregister all others."""
        for name in [name for name, each in self._by_name.items() if each.registration not in registrations]:
            self._unregister(name)

    def forget_unlisted(self) -> None:
        """Delete the copies that earlier engines left."""
        self._reader.forget_unlisted()

    def finished(self) -> Iterator[tuple[bytes, AdapterReply]]:
        """Replies to those who waited for adapters that have been read meanwhile."""
        for registration, reading in list(self._reading.items()):
            if reading.future.done():
                del self._reading[registration]
                refusal = self._settle(reading)
                for worker, request_id in reading.waiting:
                    if refusal is None:
                        yield worker, AdapterDone(request_id)
                    else:
                        yield worker, AdapterRefused(request_id, refusal.code, str(refusal))

    def stop(self) -> Iterator[tuple[bytes, AdapterReply]]:
        """Read nothing more. The replies to those who wait."""
        for reading in self._reading.values():
            for worker, request_id in reading.waiting:
                yield worker, AdapterRefused(request_id, AdapterErrorCode.DRAINING, "the server is shutting down")
        self._reading.clear()
        self._reader.stop()

    @property
    def is_reading(self) -> bool:
        """Whether the reader's thread is at work, which Python would wait for at its end; also after `stop`."""
        return self._reader.is_reading

    def let_go(self, in_use: Callable[[], Collection[str]]) -> None:
        """Drop the unregistered adapters that no sequence uses any more: none of the registrations `in_use()`."""
        self._reader.sweep()
        if len(self._known) == len(self._by_name):
            return
        wanted = {each.registration for each in self._by_name.values()} | set(in_use())
        for registration in [each for each in self._known if each not in wanted]:
            self._drop(registration)
        self.fill_slots()

    def fill_slots(self) -> dict[str, Refusal]:
        """Bring the runner's slots to what `slots` says. Registrations that could not be loaded, and why."""
        faults: dict[str, Refusal] = {}
        if self._filled == self.slots.contents:
            return faults
        for slot, (has, wanted) in enumerate(zip(self._filled, self.slots.contents, strict=True)):
            if has is not None and has != wanted:
                self._runner.unload_adapter(slot)
                self._filled[slot] = None
        for slot, wanted in enumerate(self.slots.contents):
            if wanted is not None and self._filled[slot] != wanted:
                refusal = self._fill(slot, self._known[wanted])
                if refusal is not None:
                    faults[wanted] = refusal
        return faults

    def give_up(self, registrations: Collection[str]) -> None:
        """Empty the slots of adapters that could not be loaded. Their next request tries again."""
        for each in registrations:
            self.slots.forget(each)
            self.slots.pin(each, self._known[each].pin)

    def _fill(self, slot: int, registered: _Registered) -> Refusal | None:
        try:
            with self._in_flight.filling(registered.fingerprint):
                self._runner.load_adapter(slot, registered.adapter)
        except Exception as exc:  # noqa: BLE001 - whatever torch raises; `_why` says what it means
            return _why(exc, registered.name)
        self._in_flight.adapter_loaded(registered.fingerprint)
        self._filled[slot] = registered.registration
        self.num_loads += 1
        return None

    def _register(self, worker: bytes, message: RegisterAdapter) -> AdapterReply | None:
        known = self._known.get(message.registration)
        if known is not None:
            self._name_again(known, message)
            return AdapterDone(message.request_id)
        self._read(message).waiting.append((worker, message.request_id))
        return None

    def _name_again(self, known: _Registered, message: RegisterAdapter) -> None:
        """Let a name mean a registration that is here, though it may be leaving. Raises Refusal."""
        current = self._by_name.get(message.name)
        if known is current:
            return
        if current is not None and not message.replace:
            raise _taken(message.name)
        self._check_pins(message.name, message.pin)
        self._unpin(current)
        known.name, known.pin = message.name, message.pin
        self.slots.pin(known.registration, known.pin)
        self._by_name[known.name] = known

    def _read(self, message: RegisterAdapter) -> _Reading:
        """Begin to read an adapter, unless that has begun. Raises Refusal."""
        reading = self._reading.get(message.registration)
        if reading is None:
            self._check_place(message)
            self._want_no_more(message.name)
            future = self._reader.submit(Path(message.path), message.registration)
            reading = self._reading[message.registration] = _Reading(message, future)
        return reading

    def _check_place(self, message: RegisterAdapter) -> None:
        """Raise Refusal if an adapter cannot be registered now, whatever its files hold."""
        if not self.slots.contents:
            raise Refusal(AdapterErrorCode.BAD, "This server loads no adapters: MAX_ADAPTERS is 0")
        if self._runner.adapters_obstacle is not None:
            raise Refusal(AdapterErrorCode.BAD, self._runner.adapters_obstacle)
        names = {*self._by_name, *(each.message.name for each in self._reading.values() if not each.unwanted)}
        if message.name in names and not message.replace:
            raise _taken(message.name)
        most = self._limits.max_registered
        if most and len(names | {message.name}) > most:
            raise Refusal(AdapterErrorCode.FULL, f"{most} adapters are registered; MAX_CPU_ADAPTERS allows no more")
        self._check_pins(message.name, message.pin)

    def _check_pins(self, name: str, pin: bool) -> None:
        """Raise Refusal if `name`, with this `pin`, would leave no slot to those that are not pinned."""
        others = [each for each in self._known.values() if each is not self._by_name.get(name)]
        num_pinned = sum(each.pin for each in others) + pin
        shared = len(others) + 1 > num_pinned
        if num_pinned > len(self.slots.contents) - shared:
            raise Refusal(
                AdapterErrorCode.FULL,
                f"{num_pinned} of the {len(self.slots.contents)} places on the device would be pinned, and one must be "
                "left to adapters that are not; raise MAX_ADAPTERS",
            )

    def _settle(self, reading: _Reading) -> Refusal | None:
        """Register what has been read, or say why not."""
        message = reading.message
        if reading.unwanted:
            self._reader.forget(message.registration)
            return Refusal(AdapterErrorCode.UNKNOWN, f"Adapter {message.name} was unregistered while it was read")
        try:
            found = reading.future.result()
            self._check_rank(found.adapter)
            self._check_pins(message.name, message.pin)
        except Exception as exc:  # noqa: BLE001 - as above
            self._reader.forget(message.registration)
            return exc if isinstance(exc, Refusal) else _why(exc, message.name)
        registered = _Registered(message.name, message.registration, found.adapter, found.fingerprint, message.pin)
        return self._install(registered)

    def _install(self, registered: _Registered) -> Refusal | None:
        """Let requests name an adapter once the runner has taken it into a slot, or checked it if none is free."""
        registration, running = registered.registration, self._running()
        self._known[registration] = registered
        self.slots.pin(registration, registered.pin)
        self.slots.preload(registration, running)
        refusal = self.fill_slots().get(registration)
        if self.slots.slot_of(registration) == BASE:
            refusal = self._checked(registered)
        if refusal is not None:
            self._drop(registration)
            self.fill_slots()
            return refusal
        self._unpin(self._by_name.get(registered.name))
        self._by_name[registered.name] = registered
        logger.info(
            "adapter %s registered: rank %d, %.1f MB%s",
            *(registered.name, registered.adapter.max_rank, registered.adapter.num_bytes / 1e6),
            ", in use at once" if self.slots.slot_of(registration) != BASE else "",
        )
        return None

    def _checked(self, registered: _Registered) -> Refusal | None:
        """Why the runner would refuse the adapter whatever slot it gets; None if it would not."""
        try:
            with self._in_flight.filling(registered.fingerprint):
                self._runner.check_adapter(registered.adapter)
        except Exception as exc:  # noqa: BLE001 - as above
            return _why(exc, registered.name)
        return None

    def _check_rank(self, adapter: Adapter) -> None:
        if adapter.max_rank > self._limits.max_rank:
            raise BadAdapter(
                f"the adapter's rank is {adapter.max_rank}, and MAX_ADAPTER_RANK is {self._limits.max_rank}"
            )

    def _unregister(self, name: str) -> None:
        """From now on the name is unknown. `let_go` frees the adapter when nobody uses it."""
        being_read = self._want_no_more(name)
        found = self._by_name.pop(name, None)
        if found is None and not being_read:
            raise Refusal(AdapterErrorCode.UNKNOWN, f"Adapter {name} is not registered")
        self._unpin(found)

    def _want_no_more(self, name: str) -> bool:
        """Serve none of those that are being read for `name`. True if there are any."""
        being_read = [each for each in self._reading.values() if each.message.name == name]
        for reading in being_read:
            reading.unwanted = True
        return bool(being_read)

    def _unpin(self, leaving: _Registered | None) -> None:
        if leaving is not None:
            leaving.pin = False
            self.slots.pin(leaving.registration, False)

    def _pin(self, name: str, pin: bool) -> None:
        found = self._by_name.get(name)
        if found is None:
            raise Refusal(AdapterErrorCode.UNKNOWN, f"Adapter {name} is not registered")
        self._check_pins(name, pin)
        found.pin = pin
        self.slots.pin(found.registration, pin)
        if pin:
            self.slots.preload(found.registration, self._running())

    def _drop(self, registration: str) -> None:
        self.slots.forget(registration)
        del self._known[registration]
        self._reader.forget(registration)


def _taken(name: str) -> Refusal:
    return Refusal(AdapterErrorCode.INVALID, f"Adapter {name} is already registered")


def _why(exc: Exception, name: str) -> Refusal:
    """What an exception at loading means for whoever asked for the adapter."""
    raise_if_fatal(exc)
    if isinstance(exc, BadAdapter):
        return Refusal(AdapterErrorCode.BAD, str(exc))
    if isinstance(exc, NoMemory) or is_out_of_memory(exc):
        give_back()
        told = str(exc) if isinstance(exc, NoMemory) else "no memory is left for the adapter"
        return Refusal(AdapterErrorCode.FULL, told)
    logger.error("adapter %s cannot be loaded", name, exc_info=exc)
    return Refusal(AdapterErrorCode.BAD, f"the adapter cannot be loaded: {one_line(exc, 200)}")
