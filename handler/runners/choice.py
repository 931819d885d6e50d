"""Which runner serves the model: the fastest of those that compute it as the model's own code does."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from handler.model.loader import LoadedModel, not_finite
from handler.model.machine_memory import give_back
from handler.runners.attention import ATTENTION_NAME
from handler.runners.dynamic_cache.runner import DynamicCacheRunner
from handler.runners.experts import use_static_experts
from handler.runners.limits import Limits, bytes_per_token, derive_limits
from handler.runners.paged.adapters.adapters import PagedAdapters
from handler.runners.paged.adapters.memory import AdapterRoom
from handler.runners.paged.runner import PagedRunner
from handler.runners.peak import Probe, measured_limits
from handler.runners.rotary import settle_rotary
from handler.runners.runner import NO_ROOM_FOR_ADAPTERS, Runner
from handler.runners.slots.runner import SlotRunner
from handler.runners.trial import Verdict
from handler.seam.config import EngineConfig, KVLayout
from handler.seam.errors import BadConfiguration, BadModel, UnsupportedModel
from handler.seam.status import StatusBoard
from model_memory.adapter_bytes import adapter_bytes

logger = logging.getLogger(__name__)

# What `adapter_bytes` raises.
_UNKNOWN_SIZES = (KeyError, TypeError, ValueError, ArithmeticError)


def choose_runner(config: EngineConfig, loaded: LoadedModel, board: StatusBoard) -> tuple[Runner, Limits]:
    """Pages, else slots, else transformers' cache. Raises UnsupportedModel with every reason if none is right, and
    BadModel if the weights are the reason.

    On a GPU none takes adapters unless memory was set aside for them: keys have the rest.
    """
    runner, limits = _first_right(config, loaded, board)
    if loaded.device.type == "cuda" and not config.reserves_adapters:
        runner.adapters_obstacle = NO_ROOM_FOR_ADAPTERS
    return runner, limits


def _first_right(config: EngineConfig, loaded: LoadedModel, board: StatusBoard) -> tuple[Runner, Limits]:
    """As `choose_runner`."""
    # What steps need of the memory is not known yet: sequences may become shorter, never longer.
    longest = derive_limits(config, loaded, paged=True, reserve={}).max_model_len
    settle_rotary(loaded.model, longest)
    if use_static_experts(loaded, config.max_num_seqs):
        logger.info("experts: products without a wait for the host in decode steps")
    paged = start_paged(config, loaded, board)
    if paged is not None:
        return paged
    try:
        return _passed(board, _start_slots(config, loaded))
    except UnsupportedModel as exc:
        refusal = str(exc)
        damaged = not_finite(loaded.model)
        if damaged is not None:
            raise BadModel(f"the weight {damaged} holds numbers that are not finite; the file is damaged") from exc
    if loaded.kv_codes is not None:
        raise UnsupportedModel(f"KV_CACHE_DTYPE={config.kv_cache_dtype} does not fit this model: {refusal}")
    # Only cycles of its traceback hold the failed runner's memory now, and the next runner needs it.
    give_back()
    return _passed(board, _start_dynamic_cache(config, loaded, refusal))


def _passed(board: StatusBoard, found: tuple[Runner, Limits]) -> tuple[Runner, Limits]:
    """Record the verdict, unless a faster runner failed before."""
    board["self_test"] = board["self_test"] or Verdict.PASSED
    return found


def start_paged(config: EngineConfig, loaded: LoadedModel, board: StatusBoard) -> tuple[Runner, Limits] | None:
    """A paged runner that passed the trial, and its limits; None if slots are to be used.

    Writes the verdict to the board. Raises UnsupportedModel if the configuration insists on pages and they fail.
    """
    board["self_test"] = Verdict.NOT_RUN
    if not _wants_pages(config, loaded):
        return None
    # Before keys: they take what is left.
    adapters = _adapters(config, loaded)
    limits = measured_limits(config, loaded, partial(paged_probe, loaded, adapters=adapters), paged=True)
    try:
        runner = _proved_paged(loaded, limits, board, adapters)
    except UnsupportedModel as exc:
        board["self_test"] = Verdict.FELL_BACK
        if config.kv_layout is KVLayout.PAGED:
            raise
        logger.warning("trial: slots instead of pages, without CUDA graphs: %s", str(exc))
    else:
        board["self_test"] = runner.verdict
        logger.info("trial: pages of %d tokens, %s", limits.page_size, runner.decoding)
        return runner, limits
    del adapters
    give_back()
    return None


def _wants_pages(config: EngineConfig, loaded: LoadedModel) -> bool:
    return config.kv_layout is KVLayout.PAGED or (config.kv_layout is KVLayout.AUTO and loaded.device.type == "cuda")


def _adapters(config: EngineConfig, loaded: LoadedModel) -> PagedAdapters | None:
    """Memory for adapters; on a GPU only if it is to be set aside. Raises BadConfiguration if there is too little."""
    if not config.max_adapters or (loaded.device.type == "cuda" and not config.reserves_adapters):
        return None
    try:
        return PagedAdapters(loaded, AdapterRoom(config.max_adapters, config.max_adapter_rank))
    except torch.OutOfMemoryError as exc:
        raise _too_many_adapters(config) from exc


@contextmanager
def _room_for_adapters(config: EngineConfig, loaded: LoadedModel) -> Iterator[None]:
    """Keep keys from the memory that adapters beside another runner than the paged one will take, in float32.

    Raises BadConfiguration if there is too little.
    """
    held = None
    if loaded.device.type == "cuda" and config.reserves_adapters and config.max_adapters:
        values = loaded.model.config.to_dict()
        try:
            needed = adapter_bytes(values, config.max_adapters, config.max_adapter_rank, torch.float32.itemsize)
            held = torch.empty(needed, dtype=torch.uint8, device=loaded.device)
        except _UNKNOWN_SIZES:
            logger.warning("adapters: what they take is not known for this model, so no memory is set aside for them")
        except torch.OutOfMemoryError as exc:
            raise _too_many_adapters(config) from exc
    try:
        yield
    finally:
        del held


def _too_many_adapters(config: EngineConfig) -> BadConfiguration:
    return BadConfiguration(
        f"MAX_ADAPTERS={config.max_adapters} of MAX_ADAPTER_RANK={config.max_adapter_rank} do not fit into GPU memory "
        "beside the weights"
    )


def paged_probe(loaded: LoadedModel, limits: Limits, adapters: PagedAdapters | None = None) -> Probe:
    """A paged runner with one page, for the measured steps."""
    one_page = dataclasses.replace(limits, capacity_tokens=limits.page_size)
    runner = PagedRunner(loaded, one_page, fuses=False, adapters=adapters)
    graphs = (lambda: runner.graph_bytes, runner.graph_tokens)
    return Probe(runner, ATTENTION_NAME, True, limits.max_num_seqs, *graphs)


def _slot_probe(loaded: LoadedModel, limits: Limits) -> Probe:
    longest = min(limits.max_model_len, limits.max_num_batched_tokens)
    return Probe(SlotRunner(loaded, 1, longest), ATTENTION_NAME)


def _proved_paged(
    loaded: LoadedModel, limits: Limits, board: StatusBoard, adapters: PagedAdapters | None
) -> PagedRunner:
    """In a function of its own: no local variable may hold a failed runner's pages while slots are allocated.

    A kernel that reads foreign memory makes every later CUDA call fail, so the process ends. The board then still says
    `fusing`, and the engine that comes after leaves such kernels out.
    """
    died = bool(board["fusing"])
    if died:
        logger.warning("layers are not fused: an engine died while it tried to")
    runner = PagedRunner(loaded, limits, fuses=not died, adapters=adapters)
    board["fusing"] = 1
    try:
        runner.prove()
    except UnsupportedModel:
        board["fusing"] = int(died)
        raise
    if loaded.device.type == "cuda":
        torch.cuda.synchronize(loaded.device)
    board["fusing"] = int(died)
    return runner


def _start_slots(config: EngineConfig, loaded: LoadedModel) -> tuple[Runner, Limits]:
    with _room_for_adapters(config, loaded):
        limits = measured_limits(config, loaded, partial(_slot_probe, loaded))
    runner = SlotRunner(loaded, limits.max_num_seqs, limits.max_model_len, limits.num_stored_pages, limits.page_size)
    runner.accelerate()
    runner.prove()
    logger.info("runner: %s", runner.name)
    return runner, limits


def _start_dynamic_cache(config: EngineConfig, loaded: LoadedModel, refusal: str) -> tuple[Runner, Limits]:
    """`refusal` is why slots do not fit."""
    # As for pages: rows take what they hold, no slot is reserved whole.
    longest = derive_limits(config, loaded, paged=True, reserve={}).max_model_len
    try:
        runner = DynamicCacheRunner(loaded, longest)
        runner.prove()
    except UnsupportedModel as exc:
        reasons = "; ".join(dict.fromkeys((refusal, str(exc))))
        raise UnsupportedModel(f"no runner computes this model correctly: {reasons}") from exc
    logger.info("runner: %s, %s, because %s", runner.name, runner.abilities, refusal)
    # A prompt's own keys count as part of its step here.
    with _room_for_adapters(config, loaded):
        limits = measured_limits(config, loaded, lambda _: Probe(runner), paged=True)
    runner.forget(0, 0)
    return runner, _with_states(limits, runner.state_bytes, loaded)


def _with_states(limits: Limits, state_bytes: int, loaded: LoadedModel) -> Limits:
    """Half the memory for keys, of which padding may take half, and half for the states that every row has."""
    memory = limits.capacity_tokens * bytes_per_token(loaded)
    max_num_seqs = limits.max_num_seqs if not state_bytes else memory // 2 // state_bytes
    return dataclasses.replace(
        limits,
        max_num_seqs=max(1, min(limits.max_num_seqs, max_num_seqs)),
        capacity_tokens=max(limits.max_model_len, limits.capacity_tokens // 2),
    )
