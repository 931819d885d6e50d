"""The adapters of a starting engine: all that the container's list names, before the engine reports ready."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from handler.adapters.adapter import Adapter
from handler.adapters.location import adapter_directory
from handler.engine.adapters.reader import AdapterReader
from handler.engine.adapters.registry import AdapterLimits, AdapterRegistry
from handler.engine.in_flight import InFlight
from handler.runners.runner import Runner
from handler.scheduling.adapter_slots import AdapterSlots
from handler.scheduling.sequence import Sequence
from handler.seam.adapter_list import AdapterEntry, AdapterList, new_registration
from handler.seam.config import EngineConfig
from handler.seam.errors import BadConfiguration
from handler.seam.protocol import RegisterAdapter

logger = logging.getLogger(__name__)


def build_registry(
    config: EngineConfig,
    runner: Runner,
    slots: AdapterSlots,
    read: Callable[[Path], Adapter],
    in_flight: InFlight,
    running: Callable[[], list[Sequence]],
) -> AdapterRegistry:
    """An empty registry with the configured limits; at least as many adapters may be registered as have a slot."""
    most = max(config.max_cpu_adapters, config.max_adapters) if config.max_cpu_adapters else 0
    copies = Path(config.adapters_path) if config.adapters_path else None
    limits = AdapterLimits(most, config.max_adapter_rank)
    reader = AdapterReader(lambda path: runner.prepare_adapter(read(path)), in_flight, copies)
    return AdapterRegistry(runner, slots, reader, limits, in_flight, running)


def register_listed(
    config: EngineConfig, registry: AdapterRegistry, progress: Callable[[int, str], None], *, restarted: bool = False
) -> None:
    """Register what the list names; the container's first engine makes it of LORA_ADAPTERS.

    Raises BadConfiguration for one of these that cannot be loaded, in whichever engine. One that was registered later,
    or that an engine that has `restarted` served before, is dropped from the list: no engine shall serve what another
    cannot.
    """
    configured = [
        AdapterEntry(
            name=each.name, src=each.path, registration=new_registration(), revision=each.revision, at_start=True
        )
        for each in config.adapters
    ]
    if not config.adapters_path:
        for entry in configured:
            _register(registry, entry, lambda: None)
        return
    listed = AdapterList(Path(config.adapters_path))
    listed.begin(configured)
    registry.forget_unlisted()
    while missing := [each for each in listed.read() if not registry.knows(each.registration)]:
        for entry in missing:
            progress(950, f"loading the adapter {entry.name}")
            _register_or_drop(listed, registry, entry, lambda: None, is_needed=entry.at_start and not restarted)


def catch_up(config: EngineConfig, registry: AdapterRegistry, beat: Callable[[], None]) -> None:
    """Follow the list's changes between `register_listed` and the time when the workers saw a ready engine.

    They told this engine of none. The loop does not run yet, so requests wait: one that names an adapter which every
    other engine has finds it here too. Calls `beat` meanwhile.
    """
    if not config.adapters_path:
        return
    listed = AdapterList(Path(config.adapters_path))
    entries = listed.read()
    registry.keep_only({each.registration for each in entries})
    for entry in entries:
        if not registry.knows(entry.registration):
            _register_or_drop(listed, registry, entry, beat, is_needed=False)


def _register_or_drop(
    listed: AdapterList, registry: AdapterRegistry, entry: AdapterEntry, beat: Callable[[], None], *, is_needed: bool
) -> None:
    """Raises BadConfiguration for one that `is_needed`."""
    try:
        _register(registry, entry, beat)
    except BadConfiguration as exc:
        if is_needed:
            raise
        logger.error("an adapter is no longer served: %s", exc)
        listed.remove(entry.registration)
    else:
        if entry.at_start:
            listed.mark_ready(entry.registration)


def _register(registry: AdapterRegistry, entry: AdapterEntry, beat: Callable[[], None]) -> None:
    """Raises BadConfiguration. An adapter that has a copy needs no directory any more."""
    message = _message(entry)
    if entry.at_start and not entry.ready:
        directory = adapter_directory(entry.src, entry.revision)
        message = msgspec.structs.replace(message, path=str(directory))
    refusal = registry.register_now(message, beat)
    if refusal is not None:
        setting = "LORA_ADAPTERS: " if entry.at_start else ""
        raise BadConfiguration(f"{setting}adapter {entry.name}: {refusal}")


def _message(entry: AdapterEntry) -> RegisterAdapter:
    return RegisterAdapter("", entry.name, entry.src, entry.registration, entry.pin)
