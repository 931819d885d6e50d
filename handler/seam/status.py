"""The status board: a small memory-mapped file with an engine's state, readable without contacting the engine.

PID 1 creates it, the engine writes it, and PID 1 and every web worker read it. `/ping` is answered from it, so a busy,
hung or dead engine never delays a health check. Each number is one aligned 8-byte store: readers see the old or the new
value of a field, never a mixture.
"""

from __future__ import annotations

import enum
import logging
import mmap
import time
from pathlib import Path

logger = logging.getLogger(__name__)

_NUMBERS = (
    "epoch",  # counts engine starts; 0 before the first
    "phase",
    "heartbeat_ns",  # time.monotonic_ns() of the last pass of the engine's loop
    "steps",
    "step_limit_ms",  # the current step's limit, beyond which the engine counts as hung; 0: no limit known
    "progress_permille",
    "running",
    "waiting",
    "waiting_tokens",
    "kv_used_tokens",
    "kv_capacity_tokens",
    "engine_threads",  # the most threads of a step; the limit may change while the engine runs
    "prompt_tokens",
    "generated_tokens",
    "preemptions",
    "aborts",
    "failures",
    "prefix_hit_tokens",
    "prefix_query_tokens",
    "restarts",
    "draining",
    "self_test",
    "num_engines",  # engines of the container; PID 1 writes it on the first engine's board
    "engines_wanted",  # engines that fit the devices, as the first engine found; 0 while unknown
    "devices_per_engine",
    "adapters_registered",
    "adapters_resident",  # of them, those in a slot of the runner
    "adapter_bytes",  # of all registered ones, on the host
    "adapter_loads",  # times an adapter was put into a slot
    "adapter_evictions",  # times one gave its slot to another
    "fusing",  # 1 while own kernels are first run; an engine that finds it died of them, and leaves them out
)
_INDEX = {name: i for i, name in enumerate(_NUMBERS)}
_TEXT_OFFSET = 8 * len(_NUMBERS)
_TEXT_BYTES = 512
_SIZE = _TEXT_OFFSET + _TEXT_BYTES


class Phase(enum.IntEnum):
    """Stages of an engine's life."""

    STARTING = 0
    PREPARING = 1
    LOADING = 2
    WARMING = 3
    READY = 4
    RESTARTING = 5
    FAILED = 6


_PHASES = {int(phase): phase for phase in Phase}


class StatusBoard:
    """Access to the mapped file. `board["running"]` reads a number, `board["running"] = 3` writes it."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Map `path`; with `create`, make it first (zeroed, mode 0600). Raises OSError if it is missing or short."""
        if create:
            path.touch(mode=0o600)
            path.write_bytes(b"\0" * _SIZE)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self._words = memoryview(self._map)[:_TEXT_OFFSET].cast("q")

    def __getitem__(self, name: str) -> int:
        return self._words[_INDEX[name]]

    def __setitem__(self, name: str, value: int) -> None:
        self._words[_INDEX[name]] = value

    @property
    def phase(self) -> Phase:
        """The current phase."""
        return _PHASES[self["phase"]]

    @property
    def ready(self) -> bool:
        """True if the engine serves requests and is not draining."""
        return self["phase"] == Phase.READY and not self["draining"]

    @property
    def detail(self) -> str:
        """One line about the phase, fit for a client."""
        raw = self._map[_TEXT_OFFSET : _TEXT_OFFSET + _TEXT_BYTES]
        return raw.split(b"\0", 1)[0].decode("utf-8", "replace")

    def enter(self, phase: Phase, detail: str = "") -> None:
        """Write a phase and its detail line."""
        text = detail.encode()[: _TEXT_BYTES - 1]
        self._map[_TEXT_OFFSET : _TEXT_OFFSET + _TEXT_BYTES] = text.ljust(_TEXT_BYTES, b"\0")
        self["progress_permille"] = 0
        self["phase"] = phase

    def advance(self, permille: int, text: str) -> None:
        """Write the progress of the phase and what is being done; logs the text too."""
        self.enter(self.phase, text)
        self["progress_permille"] = permille
        self.beat()
        logger.info("%s", text)

    def beat(self) -> None:
        """Write the heartbeat: the engine's loop is alive."""
        self["heartbeat_ns"] = time.monotonic_ns()

    def numbers(self) -> dict[str, int]:
        """A snapshot of every number."""
        return dict(zip(_NUMBERS, self._words, strict=True))

    def close(self) -> None:
        """Unmap the file."""
        self._words.release()
        self._map.close()
