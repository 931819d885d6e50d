"""Whether this start uses paged memory: wanted, possible on the device, and right for the model."""

from __future__ import annotations

import gc
import logging

import torch

from handler.model.loader import LoadedModel
from handler.runners.limits import Limits, derive_limits
from handler.runners.paged.runner import PagedRunner
from handler.runners.paged.self_test import Verdict
from handler.runners.runner import Runner
from handler.seam.config import EngineConfig, KVLayout
from handler.seam.errors import UnsupportedModel
from handler.seam.status import StatusBoard

logger = logging.getLogger(__name__)


def start_paged(config: EngineConfig, loaded: LoadedModel, board: StatusBoard) -> tuple[Runner, Limits] | None:
    """A paged runner that passed its self-test, and its limits; None if slots are to be used.

    Writes the verdict to the board. Without a runner, the model is left with the attention it came with. Raises
    UnsupportedModel if the configuration insists on pages and they fail.
    """
    board["self_test"] = Verdict.NOT_RUN
    on_cuda = loaded.device.type == "cuda"
    if config.kv_layout is KVLayout.SLOTS or (config.kv_layout is KVLayout.AUTO and not on_cuda):
        return None
    limits = derive_limits(config, loaded, paged=True)
    own_attention = loaded.model.config._attn_implementation
    try:
        runner = _proved(loaded, limits)
    except UnsupportedModel as exc:
        board["self_test"] = Verdict.FELL_BACK
        loaded.model.set_attn_implementation(own_attention)
        if config.kv_layout is KVLayout.PAGED:
            raise
        logger.warning("self-test: slots instead of pages, without CUDA graphs: %s", exc)
    else:
        board["self_test"] = runner.verdict
        logger.info("self-test: pages of %d tokens, %s", limits.page_size, runner.decoding)
        return runner, limits
    # The failed runner's memory is only held by cycles of its traceback now, and the slots need it.
    gc.collect()
    if on_cuda:
        torch.cuda.empty_cache()
    return None


def _proved(loaded: LoadedModel, limits: Limits) -> PagedRunner:
    runner = PagedRunner(loaded, limits)
    runner.probe()
    return runner
