"""From a configuration to an `EngineCore` that has generated its first token."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from handler.adapters.adapter import Adapter
from handler.adapters.location import check_names
from handler.adapters.model_shape import ModelShape
from handler.adapters.reading import read_adapter
from handler.draft_startup import DraftStart
from handler.engine.adapters.at_start import build_registry, register_listed
from handler.engine.core import EngineCore
from handler.engine.draft_model import DraftRunner
from handler.engine.in_flight import InFlight
from handler.engine.ipc import EngineSocket
from handler.engine.step_threads import StepThreads
from handler.engine.warm_up import sequences_of_each_kind, warm_up_sequence
from handler.kernels.compiler import use_cache_dir
from handler.kernels.product.rounded.activations import ACTIVATIONS
from handler.linears.onednn_linear import keep_onednn_off_amx
from handler.linears.packed_linear import KERNEL, Kernel, max_rows_by_one_kernel
from handler.linears.rounded import check_rounded
from handler.model.checks.remote_code import follows_code
from handler.model.draft.settings import locate_draft
from handler.model.json_file import read_json
from handler.model.loader import load, place
from handler.model.location import custom_code, locate
from handler.model.placement import Devices
from handler.model.tokenizer_files import tokenizer_dir
from handler.runners.choice import choose_runner
from handler.runners.limits import Limits
from handler.runners.runner import Runner
from handler.sampling.grammar import GrammarCompiler
from handler.scheduling.adapter_slots import AdapterSlots
from handler.scheduling.scheduler import Scheduler, SchedulerLimits
from handler.seam.config import ActivationDtype, EngineConfig
from handler.seam.processors import usable_threads
from handler.seam.protocol import ModelCard
from handler.seam.status import Phase, StatusBoard
from handler.seam.suspects import Hazards, Suspects
from handler.speculation.drafter import NgramDrafter
from handler.speculation.model_drafter import ModelDrafter

logger = logging.getLogger(__name__)

# Requests that one engine takes: as in TGI, but enough to keep a large batch full.
_MIN_IN_FLIGHT, _IN_FLIGHT_PER_SEQ = 128, 2
# Queued prompts may hold this many times the KV memory; requests behind a longer queue would time out.
_WAITING_PER_KV = 4


def start(
    config: EngineConfig,
    board: StatusBoard,
    located: tuple[Path, str] | None = None,
    draft_dir: Path | None = None,
) -> tuple[EngineCore, ModelCard]:
    """Load, verify and warm up the model. `located` and `draft_dir` are the results of `locate` and `locate_draft`, if
    called already.

    Raises StartupError with one sentence.
    """
    _configure_libraries(config)
    if located is None:
        draft_dir, located = locate_draft(config, board.advance), locate(config, board.advance)
    directory, model_id = located
    check_names(config, model_id)
    board.enter(Phase.LOADING, f"loading {model_id}")
    tokens_dir = _tokens_dir(config, directory)
    draft = None if draft_dir is None else DraftStart(config, draft_dir)
    if draft is not None:
        draft.check_vocabulary((tokens_dir, model_id))
    devices = _place(config, directory, board, draft)
    if draft is not None:
        draft.load(board.advance, devices)
    loaded = load(config, directory, board.advance, devices, tokens_dir)
    loaded = loaded if draft is None else draft.beside(loaded)
    # A runner may change the model.
    shape = ModelShape.of(loaded.model) if config.max_adapters else None
    if ACTIVATIONS.wants_int8:
        check_rounded(loaded.model, loaded.device.type)
    board.advance(700, "comparing the engine's attention with the model's own")
    with ACTIVATIONS.exact():  # what is compared must not be rounded
        runner, limits = choose_runner(config, loaded, board)
        beside = None if draft is None else draft.run_beside(runner, limits, board)
    board.enter(Phase.WARMING, "generating the first token")
    grammars = GrammarCompiler(tokens_dir / "tokenizer.json", runner.vocab_size, loaded.eos_token_ids)
    threads = StepThreads(
        partial(_num_threads, config), chooses=runner.same_by_any_threads and not config.deterministic
    )
    read = None if shape is None else partial(read_adapter, model=shape)
    core = build_core(config, runner, limits, board, grammars, threads, beside, read)
    core.generate_for_warm_up(warm_up_sequence(runner.vocab_size, limits.max_model_len))
    if loaded.device.type == "cuda":
        core.generate_for_warm_up(*sequences_of_each_kind(runner.vocab_size, limits.max_model_len, grammars))
    if core.adapters is not None:
        register_listed(config, core.adapters, board.advance, restarted=board["epoch"] > 1)
    board["kv_capacity_tokens"] = limits.capacity_tokens
    card = _card(config, runner, limits, model_id, tokens_dir, custom_code(config, directory))
    _log_start(card, limits)
    return core, card


def _tokens_dir(config: EngineConfig, directory: Path) -> Path:
    trusted = follows_code(read_json(directory / "config.json"), trust_remote_code=config.trust_remote_code)
    return tokenizer_dir(directory, Path(config.cache_dir), trusted)


def _configure_libraries(config: EngineConfig) -> None:
    """Set what holds for the whole process, before anything computes."""
    keep_onednn_off_amx()
    torch.set_num_threads(_num_threads(config))
    KERNEL.kernel = Kernel.DENSE if config.deterministic else Kernel.BY_ROWS
    ACTIVATIONS.wants_int8 = config.activation_dtype is ActivationDtype.INT8
    use_cache_dir(Path(config.cache_dir))


def _num_threads(config: EngineConfig) -> int:
    """The most threads of this engine: as configured, as OpenMP's variable says, or its share of what may be used."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return config.num_threads or (int(given) if given.isdecimal() else 0) or usable_threads(engines=config.num_engines)


def _place(config: EngineConfig, directory: Path, board: StatusBoard, draft: DraftStart | None) -> Devices:
    """Choose this engine's devices and publish the choice, so that PID 1 starts the other engines meanwhile."""
    devices = place(config, directory, None if draft is None else (draft.config, draft.directory))
    board["devices_per_engine"] = len(devices.own)
    board["engines_wanted"] = devices.num_engines
    return devices


def build_core(
    config: EngineConfig,
    runner: Runner,
    limits: Limits,
    board: StatusBoard,
    grammars: GrammarCompiler | None = None,
    threads: StepThreads | None = None,
    draft: tuple[Runner, Limits] | None = None,
    read_adapter: Callable[[Path], Adapter] | None = None,
) -> EngineCore:
    """An engine over `runner`, bound to the configured socket. `draft` runs the draft model.

    `read_adapter` reads a directory for this model, or raises BadAdapter; without it no adapter is taken.
    Raises zmq.ZMQError if the socket cannot be bound.
    """
    in_flight = InFlight(
        board,
        Hazards(Path(config.hazards_path)) if config.hazards_path else None,
        Suspects(Path(config.suspects_path)) if config.suspects_path else None,
    )
    slots = None if read_adapter is None else AdapterSlots(config.max_adapters)
    scheduler = Scheduler(
        SchedulerLimits(
            max_num_seqs=limits.max_num_seqs,
            max_num_batched_tokens=limits.max_num_batched_tokens,
            max_waiting=_max_concurrent(config, limits),
            max_waiting_tokens=_max_waiting_tokens(config, limits),
            max_model_len=limits.max_model_len,
            max_decode_rows=limits.max_decode_rows,
            eos_token_ids=runner.loaded.eos_token_ids,
        ),
        runner.kv_manager(limits),
        _drafter(config, runner, DraftRunner(*draft, runner.vocab_size, in_flight.beside()) if draft else None),
        slots,
    )
    adapters = None
    if read_adapter is not None and slots is not None:
        adapters = build_registry(config, runner, slots, read_adapter, in_flight, lambda: scheduler.running)
    socket = EngineSocket(config.socket_path)
    return EngineCore(runner, scheduler, socket, board, grammars, in_flight, threads, adapters)


def _drafter(config: EngineConfig, runner: Runner, model: DraftRunner | None = None) -> NgramDrafter | None:
    """What guesses tokens, if SPECULATE asks for it and the runner can verify them; with a draft `model`, it too."""
    if not config.num_draft_tokens:
        return None
    if runner.drafts_obstacle is not None:
        logger.warning("SPECULATE=%d has no effect: %s", config.num_draft_tokens, runner.drafts_obstacle)
        return None
    max_rows = max_rows_by_one_kernel(runner.loaded.model)
    if 0 < max_rows < 1 + config.num_draft_tokens:
        # Drafts follow the clock: by more rows, other kernels, the clock would decide the last bits.
        logger.warning(
            "SPECULATE=%d: steps with guesses have at most %d rows; DETERMINISTIC=true takes away this limit",
            *(config.num_draft_tokens, max_rows),
        )
    if model is None:
        return NgramDrafter(config.num_draft_tokens, max_rows)
    model.warm_up()
    return ModelDrafter(config.num_draft_tokens, model, max_rows)


def _max_concurrent(config: EngineConfig, limits: Limits) -> int:
    return config.max_waiting or max(_MIN_IN_FLIGHT, _IN_FLIGHT_PER_SEQ * limits.max_num_seqs)


def _max_waiting_tokens(config: EngineConfig, limits: Limits) -> int:
    return config.max_waiting_tokens or _WAITING_PER_KV * limits.capacity_tokens


def _card(
    config: EngineConfig, runner: Runner, limits: Limits, model_id: str, tokens_dir: Path, code: list[str]
) -> ModelCard:
    loaded = runner.loaded
    return ModelCard(
        model_id=model_id,
        tokenizer_dir=str(tokens_dir),
        revision=config.revision,
        vocab_size=int(loaded.text_config.vocab_size),
        max_model_len=limits.max_model_len,
        eos_token_ids=sorted(loaded.eos_token_ids),
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=str(loaded.device),
        quantize=loaded.quantize,
        kv_capacity_tokens=limits.capacity_tokens,
        max_waiting_tokens=_max_waiting_tokens(config, limits),
        max_concurrent_requests=_max_concurrent(config, limits),
        runner=runner.name,
        kv_cache_dtype=str(loaded.kv_dtype).removeprefix("torch."),
        num_draft_tokens=0 if runner.drafts_obstacle else config.num_draft_tokens,
        custom_code=code,
    )


def _log_start(card: ModelCard, limits: Limits) -> None:
    logger.info(
        "%s: %s on %s, quantize=%s, %d sequences of %d tokens, %d tokens of KV memory as %s",
        *(card.model_id, card.dtype, card.device, card.quantize),
        *(limits.max_num_seqs, limits.max_model_len, limits.capacity_tokens, card.kv_cache_dtype),
    )
