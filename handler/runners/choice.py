"""Which runner serves the model: the fastest of those that compute it as the model's own code does."""

from __future__ import annotations

import dataclasses
import gc
import logging

import torch

from handler.model.loader import LoadedModel, not_finite
from handler.runners.dynamic_cache.runner import CacheRunner
from handler.runners.limits import Limits, bytes_per_token, derive_limits
from handler.runners.paged.self_test import Verdict
from handler.runners.paged.start import start_paged
from handler.runners.rotary import settle_rotary
from handler.runners.runner import Runner
from handler.runners.slots.runner import ModelRunner
from handler.seam.config import EngineConfig
from handler.seam.errors import BadModel, UnsupportedModel
from handler.seam.status import StatusBoard

logger = logging.getLogger(__name__)


def choose_runner(config: EngineConfig, loaded: LoadedModel, board: StatusBoard) -> tuple[Runner, Limits]:
    """Pages, else slots, else transformers' cache. Raises UnsupportedModel with every reason if none is right, and
    BadModel if the weights are the reason."""
    own_attention = _attention_of(loaded)
    settle_rotary(loaded.model, derive_limits(config, loaded).max_model_len)
    paged = start_paged(config, loaded, board)
    if paged is not None:
        return paged
    try:
        found = _start_packed(config, loaded)
    except UnsupportedModel as exc:
        refusal = str(exc)
        damaged = not_finite(loaded.model)
        if damaged is not None:
            raise BadModel(f"the weight {damaged} holds numbers that are not finite; the file is damaged") from exc
    else:
        board["self_test"] = board["self_test"] or Verdict.PASSED
        return found
    # The probe has left the engine's attention in the model; the next one compares with the model's own.
    loaded.model.set_attn_implementation(own_attention)
    # The slots that the failed runner used are only held by cycles of its traceback.
    gc.collect()
    if loaded.device.type == "cuda":
        torch.cuda.empty_cache()
    found = _start_cached(config, loaded, refusal)
    board["self_test"] = board["self_test"] or Verdict.PASSED
    return found


def _start_packed(config: EngineConfig, loaded: LoadedModel) -> tuple[Runner, Limits]:
    limits = derive_limits(config, loaded)
    runner = ModelRunner(loaded, limits.max_num_seqs, limits.max_model_len, limits.num_stored_pages, limits.page_size)
    runner.probe()
    runner.speed_up()
    logger.info("runner: packed")
    return runner, limits


def _start_cached(config: EngineConfig, loaded: LoadedModel, refusal: str) -> tuple[Runner, Limits]:
    """`refusal` is why the packed runner does not fit."""
    # As for pages: rows take what they hold, no slot is reserved whole.
    limits = derive_limits(config, loaded, paged=True)
    try:
        runner = CacheRunner(loaded, limits.max_model_len)
        runner.probe()
    except UnsupportedModel as exc:
        raise UnsupportedModel(f"no runner computes this model correctly: {refusal}; {exc}") from exc
    logger.info("runner: cache, %s, because %s", runner.abilities, refusal)
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


def _attention_of(loaded: LoadedModel) -> dict[str, str]:
    """The attention of the model and of each model inside it, as `set_attn_implementation` takes it."""
    config = loaded.model.config
    parts = {"": config} | {name: getattr(config, name, None) for name in config.sub_configs}
    found = {name: getattr(part, "_attn_implementation", None) for name, part in parts.items()}
    return {name: attention for name, attention in found.items() if attention is not None}
