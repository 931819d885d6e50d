"""Which adapters are in the runner's slots, which one gives way, and which sequences may start. Pure Python.

A step holds sequences of at most as many adapters as there are slots. Slots of adapters that no running sequence uses
are given to others, least recently used first, unless they are pinned. A sequence whose adapter finds no slot lets
later ones pass, except those of one adapter in use, which thus runs dry and gives its slot: so nobody waits for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from handler.scheduling.sequence import Sequence

# The slot of a sequence of the base model.
BASE = -1
# Adapters that enter a slot in one step while others run: each takes a part of that step.
_MAX_LOADS_PER_STEP = 1


class AdapterSlots:
    """The books of `num_slots` slots. `contents[slot]` is the registration that belongs there, or None."""

    def __init__(self, num_slots: int) -> None:
        self.contents: list[str | None] = [None] * num_slots
        self.num_evictions = 0
        self._pinned: set[str] = set()
        # Each adapter in a slot, least recently used first; and least recently given to a sequence first.
        self._recent: dict[str, None] = {}
        self._started: dict[str, None] = {}

    @property
    def num_resident(self) -> int:
        """Slots that are filled."""
        return len(self._recent)

    def slot_of(self, registration: str) -> int:
        """Its slot; `BASE` if it has none."""
        return self.contents.index(registration) if registration in self._recent else BASE

    def pin(self, registration: str, pin: bool) -> None:
        """Keep an adapter in its slot from the time it has one, or no longer. The caller leaves a slot to others."""
        (self._pinned.add if pin else self._pinned.discard)(registration)

    def preload(self, registration: str, running: Iterable[Sequence]) -> None:
        """Give an adapter a slot before it is asked for, if one is free or idle."""
        if registration not in self._recent:
            self._claim(registration, {seq.registration for seq in running})

    def forget(self, registration: str) -> None:
        """Empty its slot. No running sequence uses it."""
        self._pinned.discard(registration)
        if registration in self._recent:
            self._empty(registration)

    def admission(self, running: list[Sequence]) -> Admission:
        """Who may start in this step, beside those `running`."""
        return Admission(self, {seq.registration for seq in running if seq.registration}, bool(running))

    def enter(self, seq: Sequence, in_use: set[str]) -> None:
        """Give the adapter of `seq`, which starts, a slot; adapters `in_use` keep theirs."""
        own = seq.registration
        slot = self.slot_of(own)
        if slot == BASE:
            slot = self._claim(own, in_use)
            if slot == BASE:
                raise RuntimeError("an adapter was admitted and no slot is left")
        self._touch(self._recent, own)
        self._touch(self._started, own)
        seq.adapter_slot = slot

    def leave(self, seq: Sequence) -> None:
        """The sequence no longer runs."""
        if seq.adapter_slot != BASE:
            self._touch(self._recent, seq.registration)
            seq.adapter_slot = BASE

    def has_room(self, registration: str, in_use: set[str]) -> bool:
        """Whether the adapter has a slot, or can be given one while those `in_use` keep theirs."""
        if registration in self._recent or len(self._recent) < len(self.contents):
            return True
        return any(each not in in_use and each not in self._pinned for each in self._recent)

    def longest_started(self, in_use: set[str]) -> str | None:
        """The adapter `in_use`, not pinned, that was given to a sequence the longest time ago."""
        return next((each for each in self._started if each in in_use and each not in self._pinned), None)

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Raise RuntimeError if the books contradict themselves or the `running` sequences."""
        held = [each for each in self.contents if each is not None]
        if sorted(held) != sorted(self._recent) or not set(self._started) <= set(held):
            raise RuntimeError(f"adapters {held} are in slots but {list(self._recent)} are known")
        for seq in running:
            if seq.adapter_slot != (self.slot_of(seq.registration) if seq.registration else BASE):
                raise RuntimeError(f"a sequence runs with slot {seq.adapter_slot}, which is not its adapter's")
            if seq.registration and seq.adapter_slot == BASE:
                raise RuntimeError("a sequence runs without its adapter")

    def _claim(self, registration: str, in_use: set[str]) -> int:
        """Give an adapter a free slot, or that of the least recently used one; `BASE` if all are in use or pinned."""
        if None not in self.contents:
            idle = next((each for each in self._recent if each not in in_use and each not in self._pinned), None)
            if idle is None:
                return BASE
            self._empty(idle)
            self.num_evictions += 1
        slot = self.contents.index(None)
        self.contents[slot] = registration
        self._recent[registration] = None
        return slot

    def _empty(self, registration: str) -> None:
        self.contents[self.contents.index(registration)] = None
        del self._recent[registration]
        self._started.pop(registration, None)

    @staticmethod
    def _touch(order: dict[str, None], registration: str) -> None:
        order.pop(registration, None)
        order[registration] = None


@dataclass(slots=True)
class Admission:
    """One step's decisions. Ask in the order of the queue: who is refused first gets a slot first."""

    slots: AdapterSlots
    in_use: set[str]
    others_run: bool
    _num_loads: int = 0
    # Adapters of sequences that found no slot, and those that start no more until these have one.
    _blocked: set[str] = field(default_factory=set)
    _closing: set[str] = field(default_factory=set)

    def admits(self, seq: Sequence) -> bool:
        """Whether `seq` may start now, as far as adapters decide it."""
        own = seq.registration
        if not own:
            return True
        if own in self._closing or own in self._blocked:
            return False
        if own in self.in_use:
            return True
        if not self.slots.has_room(own, self.in_use):
            self._block(own)
            return False
        is_load = self.slots.slot_of(own) == BASE
        return not (is_load and self.others_run and self._num_loads >= _MAX_LOADS_PER_STEP)

    def start(self, seq: Sequence) -> None:
        """`seq` was admitted and starts."""
        if seq.registration:
            self._num_loads += self.slots.slot_of(seq.registration) == BASE
            self.slots.enter(seq, self.in_use)
            self.in_use.add(seq.registration)

    def _block(self, registration: str) -> None:
        self._blocked.add(registration)
        victim = self.slots.longest_started(self.in_use - self._closing)
        if victim is not None:
            self._closing.add(victim)
