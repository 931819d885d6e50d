"""Decode steps of an 8B model by graphs and without: time to start, time of a step by its rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from handler.runners.limits import CUDA_PAGE_SIZE, Limits
from handler.runners.runner import Runner
from handler.runners.trial import Verdict
from tools.gpu_check import expected
from tools.gpu_check.lines import Line, check, fact
from tools.gpu_check.models import build, choose, decoding_of, serve_config, sizes_8b
from tools.gpu_check.rows import Rows
from tools.gpu_check.setting import Setting
from tools.gpu_check.varlen_shim import side_by_side

ROWS = (1, 8, 32, 64, 128)
_PROMPT = 16


def graphs(setting: Setting) -> Iterator[Line]:
    """Short sequences: the weights' share of a step, without keys."""
    started = time.perf_counter()
    model = build("llama", sizes_8b(setting))
    torch.cuda.synchronize()
    yield fact("model made", round(time.perf_counter() - started, 2), "s", gb=_reserved())
    most = setting.pick(ROWS[-1], 4)
    config = serve_config(setting, max_model_len=256, max_num_seqs=most, kv_capacity_tokens=most * 256)
    started = time.perf_counter()
    runner, limits, board = choose(config, model)
    seconds = time.perf_counter() - started
    yield setting.speed("trial, capture and trial", seconds, "s", expected.CAPTURE_S, gb=_reserved())
    yield fact("runner", runner.name, decoding=decoding_of(runner))
    yield check("verdict", Verdict(board["self_test"]).name, "PASSED")
    for rows in sorted({min(rows, most) for rows in ROWS}):
        yield _step(setting, runner, limits, rows)
    yield from _unfused(setting, runner, limits, most)
    drop = getattr(getattr(runner, "graphs", None), "drop", None)
    if drop is not None:
        drop("to be timed without")
        ms = 1e3 * time_of_step(setting, runner, limits, 1)
        yield setting.speed("eager step", ms, "ms", expected.EAGER_STEP_MS, rows=1)


def _unfused(setting: Setting, runner: Runner, limits: Limits, most: int) -> Iterator[Line]:
    """The same with the model's own layers, where the runner has fused some."""
    fusion: Any = getattr(runner, "fusion", None)
    yield fact("fused layers", getattr(fusion, "num_fused", 0))
    if not getattr(fusion, "num_fused", 0):
        return
    fusion.undo()
    recapture: Any = runner
    recapture.capture(list(range(_PROMPT)))
    for rows in sorted({1, min(32, most)}):
        yield replace(_step(setting, runner, limits, rows), what="step, layers not fused", expected=None, ok=None)


def time_of_step(setting: Setting, runner: Runner, limits: Limits, count: int) -> float:
    """Seconds of one decode step of `count` rows, launches overlapping."""
    rows = Rows(runner, runner.kv_manager(limits), count, _PROMPT)
    rows.prefill()
    found = setting.seconds_of(rows.decode, setting.pick(50, 2))
    rows.release()
    return found


def shim_seconds(setting: Setting, runner: Runner, rows: int, num_keys: int) -> float:
    """What the shim's copies add to a replayed step, by a graph of those copies alone; 0 without the shim."""
    if not setting.is_shimmed:
        return 0.0
    text = runner.loaded.text_config
    pages = -(-num_keys // CUDA_PAGE_SIZE)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    shape = (rows * pages, CUDA_PAGE_SIZE, text.num_key_value_heads, head_dim)
    pool = torch.zeros(shape, dtype=runner.loaded.dtype, device="cuda")
    table = torch.arange(rows * pages, dtype=torch.int32, device="cuda").view(rows, pages)
    side_by_side(pool, pool, table)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(int(text.num_hidden_layers)):
            side_by_side(pool, pool, table)
    return setting.seconds_of(graph.replay, setting.pick(20, 2))


def _step(setting: Setting, runner: Runner, limits: Limits, rows: int) -> Line:
    seconds = time_of_step(setting, runner, limits, rows)
    shim = shim_seconds(setting, runner, rows, limits.max_model_len)
    details = {"shim_ms": round(1e3 * shim, 3)} if setting.is_shimmed else {}
    return setting.speed("step", 1e3 * (seconds - shim), "ms", expected.STEP_MS.get(rows), rows=rows, **details)


def _reserved() -> float:
    return round(torch.cuda.memory_reserved() / 1e9, 2)
